"""How a model's answer distribution over a question's options is read from a server, in two ways.

letters  the options are listed as A, B, ...; softmax of the log-probabilities of the letters as the first
         answered token, once per option order
words    the question alone; softmax over options of `log p(option text, full stop, end of turn | question)`,
         summed over tokens, so longer options are less likely, as they are when the model answers freely
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from steer_server.evaluation.client import RequestFailed, ServerClient
from steer_server.evaluation.distributions import Shares, softmax
from steer_server.training.survey_data import LETTERS

Readout = Literal["letters", "words"]
Key = tuple[str, tuple[str, ...]]
"""A question's text and options: what is asked is the same in every country that has it."""

LETTER_ASK = "Answer with one letter."
NUM_TOP_LOGPROBS = 20
TIED = 1e-9
"""Shares that differ by less are equal: the same shares in another order have another mean by rounding."""


@dataclass(frozen=True)
class Setting:
    """Under what a question is asked."""

    name: str
    blend: tuple[tuple[str, float], ...] = ()
    """(culture, weight), sorted."""
    system: str = ""
    """System prompt; empty for the chat template's own."""
    values: tuple[tuple[str, float], ...] = ()
    """(value axis, weight), sorted. Without a blend and without these, the base model."""

    @classmethod
    def of_blend(cls, name: str, weights: Mapping[str, float]) -> Setting:
        """Weights of 0 are left out, so that the end of a sweep is the culture itself."""
        return cls(name, tuple(sorted((c, w) for c, w in weights.items() if w)))

    @classmethod
    def of_values(cls, name: str, weights: Mapping[str, float]) -> Setting:
        """A preference vector; weights of 0 are left out, so that equal vectors are equal requests."""
        return cls(name, values=tuple(sorted((a, w) for a, w in weights.items() if w)))

    def messages(self, prompt: str) -> list[dict[str, str]]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": prompt}]

    def steering(self) -> dict[str, Any]:
        """The request's part that steers."""
        given = {"cultures": dict(self.blend), "values": dict(self.values)}
        return {"steering": {key: weights for key, weights in given.items() if weights} or {"method": "none"}}


@dataclass(frozen=True)
class Answer:
    """A model's answer to one question under one setting."""

    shares_O_N: Shares
    """One row per option order, always in the options' natural order; one row for words."""
    mass: float
    """Probability that the answer was one of the options at all, mean over orders."""
    num_missing: int = 0
    """Letters for which only an upper bound was known."""

    @property
    def mean_N(self) -> Shares:
        return np.asarray(self.shares_O_N.mean(0))

    @property
    def choice(self) -> int | None:
        """The option with the largest mean share; None where two have it."""
        second, first = np.argsort(self.mean_N)[-2:]
        return int(first) if self.mean_N[first] > self.mean_N[second] + TIED else None


Answers = dict[str, dict[Key, Answer]]
"""By setting's name and question; an answer that failed is not there."""


def option_orders(num_options: int, num_orders: int, seed: str) -> list[list[int]]:
    """Natural, reversed, then random orders that follow from `seed`."""
    natural = list(range(num_options))
    rng = random.Random(seed)
    others = [rng.sample(natural, num_options) for _ in range(max(0, num_orders - 2))]
    return [natural, natural[::-1], *others][:num_orders]


def lettered(text: str, options: Sequence[str]) -> str:
    """The prompt of the letters readout."""
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    return f"{text}\n{listed}\n{LETTER_ASK}"


def whole_answer(option: str) -> str:
    """An option as the text of a whole answer."""
    return option.rstrip(".") + "."


@dataclass
class Reader:
    """Reads distributions from one server. Every method raises RequestFailed, also where another plan was
    applied than the setting's."""

    client: ServerClient
    model: str
    _letter_ids: dict[str, int | None] = field(default_factory=dict)

    async def letters(
        self, setting: Setting, text: str, options: Sequence[str], orders: Sequence[Sequence[int]]
    ) -> Answer:
        """Asks once per order; `orders` hold indices into `options`, of which there are at most 26."""
        rows, masses, num_missing = [], [], 0
        for order in orders:
            logs, missing = await self.letter_logprobs(setting, text, [options[i] for i in order])
            num_missing += missing
            row = np.empty(len(options))
            row[list(order)] = softmax(logs)
            rows.append(row)
            masses.append(float(np.exp(logs).sum()))
        return Answer(np.array(rows), float(np.mean(masses)), num_missing)

    async def letter_logprobs(
        self, setting: Setting, text: str, options: Sequence[str]
    ) -> tuple[Shares, int]:
        """Log-probability of each letter as the first answered token, and how many are only upper bounds.

        vLLM gives the exact values of `logprob_token_ids`. A server that ignores that field gives its most
        likely tokens; a letter that is not among them gets the smallest value listed, an upper bound.
        """
        letters = LETTERS[: len(options)]
        ids = [await self._letter_id(letter) for letter in letters]
        body: dict[str, Any] = {
            "model": self.model,
            "messages": setting.messages(lettered(text, options)),
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": NUM_TOP_LOGPROBS,
            **setting.steering(),
        }
        if None not in ids:
            body["logprob_token_ids"] = ids
        answer = await self.client.post_steered("/v1/chat/completions", body)
        try:
            listed = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            found = {entry["token"]: float(entry["logprob"]) for entry in reversed(listed)}
            lowest = min(found.values())
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise self._unusable("/v1/chat/completions", body, error) from error
        logs = np.array([found.get(letter, lowest) for letter in letters])
        return logs, sum(letter not in found for letter in letters)

    async def words(self, setting: Setting, text: str, options: Sequence[str]) -> Answer:
        """All options in one request: vLLM reports the log-probabilities of given prompts' tokens."""
        messages = setting.messages(text)
        prefix = await self.tokens({"messages": messages, "add_generation_prompt": True})
        end = await self.end_of_turn()
        answers = [[*await self.text_tokens(whole_answer(o)), end] for o in options]
        logs = await self.answer_log_probs(setting, prefix, answers)
        return Answer(softmax(np.array([logs])), math.fsum(map(math.exp, logs)))

    async def answer_log_probs(
        self,
        setting: Setting,
        prefix: Sequence[int],
        answers: Sequence[Sequence[int]],
        is_kept: bool = True,
    ) -> list[float]:
        """`Σ_t log p(token_t | prefix, tokens before it)` in nats for each answer, all in one request.

        The prefix is sent as it is: a system prompt of the setting must already be in it. `is_kept` as in
        `ServerClient.post`.
        """
        body = {
            "model": self.model,
            "prompt": [[*prefix, *answer] for answer in answers],
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,
            **setting.steering(),
        }
        found = await self.client.post_steered("/v1/completions", body, is_kept)
        try:
            choices = sorted(found["choices"], key=lambda c: int(c["index"]))
            logs = [
                math.fsum(
                    float(position[str(token)]["logprob"])
                    for token, position in zip(answer, choice["prompt_logprobs"][-len(answer) :], strict=True)
                )
                for answer, choice in zip(answers, choices, strict=True)
            ]
            if not all(map(math.isfinite, logs)):
                raise ValueError(f"log-probabilities {logs}")
        except (KeyError, TypeError, ValueError) as error:
            raise self._unusable("/v1/completions", body, error) from error
        return logs

    async def _letter_id(self, letter: str) -> int | None:
        if letter not in self._letter_ids:
            ids = await self.text_tokens(letter)
            self._letter_ids[letter] = ids[0] if len(ids) == 1 else None
        return self._letter_ids[letter]

    async def end_of_turn(self) -> int:
        """The token that the chat template puts right behind an assistant's text."""
        turn = [{"role": "user", "content": "x"}]
        prefix = await self.tokens({"messages": turn, "add_generation_prompt": True})
        text = await self.text_tokens("Yes.")
        whole = await self.tokens(
            {"messages": [*turn, {"role": "assistant", "content": "Yes."}], "add_generation_prompt": False}
        )
        before = [*prefix, *text]
        if whole[: len(before)] != before or len(whole) == len(before):
            # Without this, the words would be scored in another form than the model gives them.
            body = {"messages": turn}
            raise self._unusable(
                "/tokenize", body, ValueError("the chat template does not end turns plainly")
            )
        return whole[len(before)]

    async def text_tokens(self, text: str) -> list[int]:
        """A plain text's tokens, without special ones."""
        return await self.tokens({"prompt": text, "add_special_tokens": False})

    async def tokens(self, body: Mapping[str, Any]) -> list[int]:
        """What the server makes of a text or of messages (`/tokenize`)."""
        answer = await self.client.post("/tokenize", {"model": self.model, **body})
        try:
            return [int(token) for token in answer["tokens"]]
        except (KeyError, TypeError, ValueError) as error:
            raise self._unusable("/tokenize", body, error) from error

    def _unusable(self, path: str, body: Mapping[str, Any], error: Exception) -> RequestFailed:
        return self.client.fail(path, body, f"an answer that cannot be used: {error!r}")
