"""FakeEngine: a tiny deterministic language model that obeys the bank's laws, for tests without vLLM.

Semantics: over a vocabulary of 64 words, the logits at position i of prompt p are

    base(p, i) + Σ over adapters, ranks r of  gate[r] * direction(adapter digest, r)

and the next word is their argmax. So gates of 0 give the base model's text exactly, weights add, and the
order of adapters does not matter: the promises that the contract suite checks on this engine and on vLLM.
Choice i > 0 of a request for several answers to p is what p followed by "#i" gives. A reward head's raw score
is a number that its digest and the text's last words alone decide; where it reads the generation, its digest,
the plan, the prompt and the words before the one that was sampled last, which a stop string may have cut off.

A token is a word. A chat's prompt is one token: a prompt of token ids that begins with one is a chat with the
beginning of its answer, and what follows is predicted as in that chat. A word that the vocabulary does not
have is as unlikely under every plan.

Not covered: tools, logprobs of alternatives, structured output, batching effects, sampling.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import numpy as np
from starlette.requests import Request

from steer_server.catalogue.snapshot import LoadedAdapter, LoadedRewardHead
from steer_server.engine.base import Answer, ReadText, Route, ScoredText, ScoringText, TokenisedText
from steer_server.errors import EngineError, EngineRefusal
from steer_server.steering.plan import SteeringPlan

WORDS = [f"w{i:02d}" if i < 56 else f"w{i:02d}." for i in range(64)]
"""The last eight end sentences."""
FIRST_CHAT_ID = 1 << 20
"""Token ids from here on stand for the prompts of chats."""
UNKNOWN_LOGPROB = -9.0
MAX_STOPS = 4
"""As in vLLM."""
RANK = 8


def _noise(*seed: object) -> np.ndarray:
    digest = hashlib.sha256(repr(seed).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big")).standard_normal(len(WORDS))


class FakeEngine:
    """See the module. `token_seconds` slows generation down, so that tests can interrupt it."""

    provider = "fake"

    def __init__(self, served_name: str = "fake", num_slots: int = 4, token_seconds: float = 0.0) -> None:
        self.served_name = served_name
        self.num_slots = num_slots
        self.token_seconds = token_seconds
        self.slots: dict[int, str] = {}
        """Digest of the adapter in each slot."""
        self.failing_digests: set[str] = set()
        """Adapters and heads whose loading fails."""
        self.heads: set[str] = set()
        """Digests of the loaded heads."""
        self.scored: list[ScoringText] = []
        """Every text that was scored."""
        self.read: list[tuple[ReadText, SteeringPlan]] = []
        """Every text that was read for its log-probabilities, and under what."""
        self.answers: dict[str, str] = {}
        """Prompt, as `read_prompt` gives it -> what is answered in place of the model's own words, and ends
        by itself. Not in streams."""
        self.asked: list[tuple[dict[str, Any], SteeringPlan]] = []
        """Every request, and what it ran under."""
        self.max_model_tokens = 2048
        self.can_read_heads = True
        self.num_loads = 0
        self.num_running = 0
        self.is_dead = False
        self._words = list(WORDS)
        """By token id."""
        self._chats: list[str] = []
        """By token id, less FIRST_CHAT_ID."""

    async def load_slot(self, slot: int, adapter: LoadedAdapter) -> None:
        self.slots.pop(slot, None)
        self.num_loads += 1
        await asyncio.sleep(self.token_seconds)
        if adapter.digest in self.failing_digests:
            raise EngineError(f"adapter {adapter.title} cannot be loaded")
        self.slots[slot] = adapter.digest

    async def clear_slot(self, slot: int) -> None:
        self.slots.pop(slot, None)

    def run(
        self,
        route: Route,
        body: dict[str, Any],
        plan: SteeringPlan,
        request: Request,
        *,
        reads_heads: bool = False,
    ) -> FakeRun:
        self.asked.append((body, plan))
        return FakeRun(self, route, body, plan, reads_heads=reads_heads)

    async def load_head(self, head: LoadedRewardHead) -> None:
        await asyncio.sleep(self.token_seconds)
        if head.digest in self.failing_digests:
            raise EngineError(f"reward head {head.title} cannot be loaded")
        self.heads.add(head.digest)

    async def drop_head(self, digest: str) -> None:
        self.heads.discard(digest)

    async def score(self, texts: Sequence[ScoringText]) -> list[ScoredText]:
        if self.is_dead:
            raise EngineError("the engine is dead")
        self.scored += texts
        loaded = sorted(self.heads)
        self.num_running += 1
        try:
            await asyncio.sleep(self.token_seconds)
        finally:
            self.num_running -= 1
        return [self._scored(text, loaded) for text in texts]

    @staticmethod
    def _scored(text: ScoringText, loaded: Sequence[str]) -> ScoredText:
        whole = [word for m in text.messages for word in m["content"].split()] + text.answer.split()
        read = whole[-text.text_format.max_tokens :]
        raw = {digest: float(_noise("score", digest, *read)[0]) for digest in loaded}
        return ScoredText(raw, len(read), len(read) < len(whole))

    async def log_probs(
        self, texts: Sequence[ReadText], plan: SteeringPlan, cache_salt: str | None = None
    ) -> list[list[float]]:
        if self.is_dead:
            raise EngineError("the engine is dead")
        if any(len(text.token_ids) >= self.max_model_tokens for text in texts):
            error = {"message": "The prompt is too long.", "type": "BadRequestError", "param": None}
            raise EngineRefusal({"error": {**error, "code": 400}}, 400)
        self.read += [(text, plan) for text in texts]
        self.num_running += 1
        try:
            await asyncio.sleep(self.token_seconds)
        finally:
            self.num_running -= 1
        read = [(self.read_prompt(list(text.token_ids)), text.first) for text in texts]
        return [self._log_probs(*parts, plan)[first - 1 :] for parts, first in read]

    def _log_probs(self, prompt: str, answered: Sequence[int], plan: SteeringPlan) -> list[float]:
        """Of each token of the answer."""
        return [
            float(self.logprobs(prompt, position, plan)[token]) if token < len(WORDS) else UNKNOWN_LOGPROB
            for position, token in enumerate(answered)
        ]

    async def tokenise_chat(self, body: Mapping[str, Any], request: Request) -> list[int]:
        check_body("chat", body, self.served_name)
        prompt = json.dumps(body["messages"], sort_keys=True)
        if prompt not in self._chats:
            self._chats.append(prompt)
        return [FIRST_CHAT_ID + self._chats.index(prompt)]

    async def tokenise(self, texts: Sequence[str]) -> list[TokenisedText]:
        found = [list(re.finditer(r"\S+", text)) for text in texts]
        return [
            TokenisedText(tuple(self._id(word[0]) for word in words), tuple(word.end() for word in words))
            for words in found
        ]

    def _id(self, word: str) -> int:
        if word not in self._words:
            self._words.append(word)
        return self._words.index(word)

    def read_prompt(self, prompt: Any) -> tuple[str, list[int]]:
        """The prompt whose words are predicted, and the tokens of the answer that come after it."""
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], int) and prompt[0] >= FIRST_CHAT_ID:
            return self._chats[prompt[0] - FIRST_CHAT_ID], prompt[1:]
        return json.dumps(prompt, sort_keys=True), []

    async def check_health(self) -> None:
        if self.is_dead:
            raise EngineError("the engine is dead")

    async def bank_info(self) -> dict[str, Any]:
        shape = {"slots": self.num_slots, "rank": RANK, "layers": 0}
        return {**shape, "bytes": 0, "copies": 1, "compilation_mode": "none"}

    def next_word(self, prompt: str, position: int, plan: SteeringPlan) -> tuple[str, float]:
        """The greedy word and its log-probability."""
        logprobs = self.logprobs(prompt, position, plan)
        best = int(np.argmax(logprobs))
        return WORDS[best], float(logprobs[best])

    def logprobs(self, prompt: str, position: int, plan: SteeringPlan) -> np.ndarray:
        """Of every word of the vocabulary."""
        logits = _noise("base", prompt, position)
        for adapter in plan.adapters:
            if adapter.digest not in self.slots.values():
                raise AssertionError(f"{adapter.name} is planned and not resident")
            for index, gate in enumerate(adapter.gates(RANK)):
                logits = logits + gate * _noise(adapter.digest, index)
        return np.asarray(logits - np.log(np.exp(logits).sum()))


class FakeRun:
    def __init__(
        self,
        engine: FakeEngine,
        route: Route,
        body: dict[str, Any],
        plan: SteeringPlan,
        *,
        reads_heads: bool = False,
    ) -> None:
        self.engine, self.route, self.body, self.plan = engine, route, body, plan
        self.is_running = False
        self._scores: dict[int, dict[str, float]] = {}
        """By choice, of the row that was sampled from last."""
        self._choice_scores = self._scores.copy if reads_heads else None

    async def answer(self) -> Answer:
        if self.engine.is_dead:
            raise EngineError("the engine is dead")
        check_body(self.route, self.body, self.engine.served_name)
        given = self.body["messages" if self.route == "chat" else "prompt"]
        is_batch = self.route == "completion" and isinstance(given, list) and isinstance(given[0], list)
        self.prompts = [self.engine.read_prompt(prompt) for prompt in (given if is_batch else [given])]
        self.max_tokens = int(self.body.get("max_tokens") or self.body.get("max_completion_tokens") or 16)
        self.is_running = True
        self.engine.num_running += 1
        if self.body.get("stream"):
            return Answer(events=self._events(), choice_scores=self._choice_scores)
        num_words = len([word async for word, _ in self._words()])
        await self.stop()
        num_choices = int(self.body.get("n") or 1)
        choices: list[dict[str, Any]] = []
        generated = 0
        for prompt, answered in self.prompts:
            for i in range(num_choices):
                drawn = f"{prompt}#{i}" if i else prompt
                text, reason, before = self._text(drawn, len(answered), num_words)
                self._read(len(choices), drawn, before)
                generated += len(text.split())
                choices.append(self._choice(len(choices), text, reason))
                if self.body.get("prompt_logprobs") is not None:
                    choices[-1]["prompt_logprobs"] = self._prompt_logprobs(prompt, answered)
        read = sum(1 + len(answered) for _, answered in self.prompts)
        usage = {"prompt_tokens": read, "completion_tokens": generated, "total_tokens": read + generated}
        object_ = "chat.completion" if self.route == "chat" else "text_completion"
        body = {**self._envelope(object_), "choices": choices, "usage": usage}
        return Answer(body=body, choice_scores=self._choice_scores)

    async def stop(self) -> None:
        if self.is_running:
            self.is_running = False
            self.engine.num_running -= 1

    async def _words(self) -> AsyncIterator[tuple[str, float]]:
        for position in range(self.max_tokens):
            await asyncio.sleep(self.engine.token_seconds)
            if not self.is_running:
                return
            prompt, answered = self.prompts[0]
            yield self.engine.next_word(prompt, len(answered) + position, self.plan)

    def _read(self, choice: int, prompt: str, before: Sequence[str]) -> None:
        """Scores a choice. Args: before: its words, less the one that is sampled now."""
        self._scores[choice] = {
            digest: float(_noise("state", digest, self.plan.digest, prompt, *before)[0])
            for digest in sorted(self.engine.heads)
        }

    def _text(self, prompt: str, start: int, num_words: int) -> tuple[str, str, list[str]]:
        """An answer, why it ended, and its words before the one that was sampled last."""
        if prompt in self.engine.answers:
            given = self.engine.answers[prompt]
            return given, "stop", given.split()
        at = range(start, start + num_words)
        text = " ".join(self.engine.next_word(prompt, position, self.plan)[0] for position in at)
        # What goes on with an answer begins with the space between words.
        text = f" {text}" if start else text
        stops = self.body.get("stop") or []
        found = [(text.find(stop), stop) for stop in ([stops] if isinstance(stops, str) else stops)]
        place, stop = min(((at, stop) for at, stop in found if at >= 0), default=(len(text), None))
        # What stands behind a space begins the next word, which was sampled to tell.
        before = f"{text[: place + len(stop or '')]}…".split()[:-1]
        if stop is None:
            return text, "length", before
        return text[: place + len(stop) * bool(self.body.get("include_stop_str_in_output"))], "stop", before

    def _prompt_logprobs(self, prompt: str, answered: Sequence[int]) -> list[dict[int, Any] | None]:
        read = zip(answered, self.engine._log_probs(prompt, answered, self.plan), strict=True)
        return [None, *({token: {"logprob": logprob}} for token, logprob in read)]

    async def _events(self) -> AsyncIterator[str]:
        object_ = "chat.completion.chunk" if self.route == "chat" else "text_completion"
        position = 0
        words: list[str] = []
        async for word, _ in self._words():
            self._read(0, self.prompts[0][0], words)
            words.append(word)
            text = word if position == 0 else f" {word}"
            part = (
                {"delta": {"role": "assistant", "content": text}} if self.route == "chat" else {"text": text}
            )
            choice = {"index": 0, "finish_reason": None, **part}
            position += 1
            yield f"data: {json.dumps({**self._envelope(object_), 'choices': [choice]})}\n\n"
        await self.stop()
        yield "data: [DONE]\n\n"

    def _envelope(self, object_: str) -> dict[str, Any]:
        return {"id": "fake-1", "object": object_, "created": 0, "model": self.engine.served_name}

    def _choice(self, index: int, text: str, reason: str) -> dict[str, Any]:
        content: dict[str, Any] = {"text": text}
        if self.route == "chat":
            content = {"message": {"role": "assistant", "content": text}}
        return {"index": index, "finish_reason": reason, "logprobs": None, **content}


def check_body(route: Route, body: Mapping[str, Any], served_name: str) -> None:
    """Raises: EngineRefusal for another model, a prompt that is missing, too many stops."""
    key = "messages" if route == "chat" else "prompt"
    if body.get("model") not in (None, served_name):
        error = {"message": "The model does not exist.", "type": "NotFoundError", "param": "model"}
        raise EngineRefusal({"error": {**error, "code": 404}}, 404)
    if not body.get(key):
        error = {"message": f"Field required: {key}", "type": "BadRequestError", "param": key}
        raise EngineRefusal({"error": {**error, "code": 400}}, 400)
    if isinstance(stops := body.get("stop"), list) and len(stops) > MAX_STOPS:
        error = {"message": f"At most {MAX_STOPS} stops", "type": "BadRequestError", "param": "stop"}
        raise EngineRefusal({"error": {**error, "code": 400}}, 400)
