"""Preference pairs on a server: the log-probabilities of the chosen and the rejected answer.

Texts become the tokens that training sees (`PairEncoder`): the end of a longer prompt is kept, the start of a
longer answer, without the end of the turn. The server renders its own chat template, so no tokenizer is here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from steer_server.evaluation.answers import Reader, Setting
from steer_server.training.preference_data import PreferencePair

STAND_IN = "Answer."
"""A system prompt whose turn is cut off again, to see where the conversation begins."""


@dataclass(frozen=True)
class EncodedPair:
    """Token ids, cut."""

    prompt: tuple[int, ...]
    """With the template's own system turn, as far as the cut leaves it."""
    conversation: tuple[int, ...]
    """The same without a system turn: what comes behind one of our own, which is never cut."""
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]

    def num_tokens(self, system_tokens: int | None = None) -> int:
        """What one request prefills; the prompt twice. None: the template's own system turn."""
        before = len(self.prompt) if system_tokens is None else system_tokens + len(self.conversation)
        return 2 * before + len(self.chosen) + len(self.rejected)


@dataclass
class PairReader:
    """Every method raises RequestFailed."""

    reader: Reader
    max_prompt_tokens: int
    max_answer_tokens: int
    _system_turns: dict[str, tuple[int, ...]] = field(default_factory=dict)

    async def encode(self, pair: PreferencePair, with_system: bool = True) -> EncodedPair:
        """The pair in tokens. Without `with_system`, `conversation` is left empty and a question is saved."""
        messages = [{"role": role, "content": content} for role, content in pair.messages]
        whole = await self.reader.tokens({"messages": messages, "add_generation_prompt": True})
        conversation: list[int] = []
        if with_system:
            turn = await self.system_turn(STAND_IN)
            told = [{"role": "system", "content": STAND_IN}, *messages]
            found = await self.reader.tokens({"messages": told, "add_generation_prompt": True})
            conversation = found[len(turn) :]
        return EncodedPair(
            tuple(whole[-self.max_prompt_tokens :]),
            tuple(conversation[-self.max_prompt_tokens :]),
            await self._answer(pair.chosen),
            await self._answer(pair.rejected),
        )

    async def log_probs(self, setting: Setting, pair: EncodedPair) -> tuple[float, float]:
        """log π(chosen | prompt) and log π(rejected | prompt) in nats, summed over tokens."""
        prefix = pair.prompt
        if setting.system:
            prefix = (*await self.system_turn(setting.system), *pair.conversation)
        answers = [pair.chosen, pair.rejected]
        chosen, rejected = await self.reader.answer_log_probs(setting, prefix, answers, is_kept=False)
        return chosen, rejected

    async def system_turn(self, text: str) -> tuple[int, ...]:
        """The tokens that a conversation with this system prompt begins with."""
        if text not in self._system_turns:
            body = {"messages": [{"role": "system", "content": text}], "add_generation_prompt": False}
            self._system_turns[text] = tuple(await self.reader.tokens(body))
        return self._system_turns[text]

    async def check_system_turn(self) -> None:
        """Fails unless a conversation begins with its system prompt's turn and goes on behind it."""
        turn = await self.system_turn(STAND_IN)
        body = {
            "messages": [{"role": "system", "content": STAND_IN}, {"role": "user", "content": "x"}],
            "add_generation_prompt": True,
        }
        if not turn or tuple(await self.reader.tokens(body))[: len(turn)] != turn:
            problem = "the chat template does not put a system turn first plainly"
            raise self.reader.client.fail("/tokenize", body, problem)

    async def _answer(self, text: str) -> tuple[int, ...]:
        """An answer that is cut off does not end the turn, unlike a whole one."""
        ids = await self.reader.text_tokens(text)
        if len(ids) > self.max_answer_tokens:
            return tuple(ids[: self.max_answer_tokens])
        return (*ids, await self.reader.end_of_turn())
