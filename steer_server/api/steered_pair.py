"""The two distributions of diffpo as requests to the local engine: π_s draws fillings, π_s and π_ref score.

Each round is one request of many prompts, or one batch of readings, which the engine batches with everyone
else's. The caller holds the plan's slots.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from steer_server.api.reading import read_log_probs
from steer_server.api.respond import Job, run_whole
from steer_server.engine.base import ReadText, TokenisedText
from steer_server.frozen.gaps import Gap
from steer_server.frozen.scored_answer import ScoredAnswer
from steer_server.frozen.spans import ends_sentence, split
from steer_server.observing.spans import span
from steer_server.steering.plan import SteeringPlan
from steer_server.together import together

SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "allowed_token_ids",
    "bad_words",
    "seed",
    "priority",
    "cache_salt",
)
"""Fields of a chat request that mean the same for the text that fills a gap."""
SENTENCE_STOPS = (". ", "! ", "? ", "\n")
"""Where drawing may end: four, which is all that vLLM takes. What goes on behind another end of a sentence
is cut there later. Without the space, 3.14 would end a sentence; it costs one token more."""
FULL_WIDTH_STOPS = ("。", "！", "？", "\n")
MAX_FILLING_TOKENS = 64
LONGER = 1.5
"""A filling may have this many times the tokens of what it replaces."""


@dataclass(frozen=True)
class Distribution:
    """Of answers to one conversation."""

    plan: SteeringPlan
    prompt: tuple[int, ...]


@dataclass
class ForwardTokens:
    """What was computed."""

    prefilled: int = 0
    """Of prompts; those that the prefix cache had are included."""
    generated: int = 0


@dataclass
class SteeredPair:
    """`frozen.diffpo.SteeredModel` on the engine."""

    job: Job
    """Whose runner is the engine, and whose route is `completion`."""
    steered: Distribution
    """π_s."""
    proposal: Distribution
    """π_g: what fillings are drawn from."""
    reference: Distribution
    """π_ref."""
    sampling: dict[str, Any]
    num_candidates: int
    stops: Sequence[str]
    """The client's own: no filling may contain one."""
    max_answer_tokens: int
    """An answer that is longer is not scored."""
    forward: ForwardTokens = field(default_factory=ForwardTokens)

    async def score(
        self, answers: Sequence[str], known: ScoredAnswer | None = None
    ) -> list[ScoredAnswer | None]:
        """Raises: SteerError."""
        known = known or ScoredAnswer("", (), (), (), ())
        texts = await self.job.server.engine.tokenise(answers)
        are_fit = [0 < len(text.token_ids) <= self.max_answer_tokens for text in texts]
        if not any(are_fit):
            return [None] * len(texts)
        read = [text for text, is_fit in zip(texts, are_fit, strict=True) if is_fit]
        with span("judge"):
            steered, reference = await together(
                [
                    self._log_probs(self.steered, read, known.token_ids, known.steered),
                    self._log_probs(self.reference, read, known.token_ids, known.reference),
                ]
            )
        found = zip(steered, reference, strict=True)
        return [
            ScoredAnswer(answer, text.token_ids, text.ends, *next(found)) if is_fit else None
            for answer, text, is_fit in zip(answers, texts, are_fit, strict=True)
        ]

    async def draw(self, gaps: Sequence[Gap]) -> list[list[str]]:
        """Raises: SteerError."""
        kept = await self.job.server.engine.tokenise([gap.kept for gap in gaps])
        longest = max(gap.num_tokens for gap in gaps)
        body = {
            **self.sampling,
            "prompt": [[*self.proposal.prompt, *text.token_ids] for text in kept],
            "n": self.num_candidates,
            "max_tokens": min(math.ceil(LONGER * longest) + 4, MAX_FILLING_TOKENS),
            "stop": _stops(gaps[0].text),
            "include_stop_str_in_output": True,
        }
        with span("draw"):
            choices = await self._ask(self.proposal, body)
        rows = [choices[i : i + self.num_candidates] for i in range(0, len(choices), self.num_candidates)]
        return [[filling for choice in row if (filling := self._filling(choice))] for row in rows]

    def _filling(self, choice: dict[str, Any]) -> str | None:
        """The sentence that was drawn; None when it did not come to its end, or may not stand in a gap."""
        spans = split(choice["text"])
        if not spans or not spans[0].body.strip() or spans[0].is_fixed:
            return None
        filling = spans[0].lead + spans[0].body
        is_cut = len(spans) == 1 and choice["finish_reason"] == "length" and not ends_sentence(filling)
        # A line break or a list's marker before it: a sentence for another place.
        is_elsewhere = bool(spans[0].lead.strip(" "))
        is_stopped = any(stop in filling for stop in self.stops)
        return None if is_cut or is_elsewhere or is_stopped else filling

    async def _log_probs(
        self,
        distribution: Distribution,
        answers: Sequence[TokenisedText],
        known_ids: Sequence[int],
        known: Sequence[float],
    ) -> list[list[float]]:
        """Of each token of each answer, those of `known_ids` in its beginning as they are known."""
        # Where an answer is known to its end, its last token is read all the same.
        shared = [min(_num_shared(text.token_ids, known_ids), len(text.token_ids) - 1) for text in answers]
        prompt = distribution.prompt
        texts = [
            ReadText((*prompt, *text.token_ids), len(prompt) + num)
            for text, num in zip(answers, shared, strict=True)
        ]
        read = await read_log_probs(self.job, distribution.plan, texts)
        self.forward.prefilled += sum(len(text.token_ids) for text in texts)
        return [[*known[:num], *found] for num, found in zip(shared, read, strict=True)]

    async def _ask(self, distribution: Distribution, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The choices of the engine's answer, in order."""
        asking = replace(self.job, answer_plan=distribution.plan)
        found = await run_whole(asking, {"model": self.job.body.get("model"), **body}, is_leased=True)
        self.forward.prefilled += found["usage"]["prompt_tokens"]
        self.forward.generated += found["usage"]["completion_tokens"]
        return sorted(found["choices"], key=lambda choice: int(choice["index"]))


def _stops(text: str) -> list[str]:
    """As the text itself ends its sentences."""
    is_full_width = any(mark in text for mark in FULL_WIDTH_STOPS[:3])
    return list(FULL_WIDTH_STOPS if is_full_width else SENTENCE_STOPS)


def _num_shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Tokens with which both begin."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
