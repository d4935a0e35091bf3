"""Scores of answers as clients see them: raw and calibrated, by head, with versions and plan."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from steer_server.api.keys import Caller
from steer_server.api.score_log import ScoreLog
from steer_server.catalogue.reward_head import Message, TextFormat
from steer_server.catalogue.snapshot import LoadedRewardHead
from steer_server.engine.base import ChoiceScores, Engine, ScoredText, ScoringText
from steer_server.engine.heads import LoadedHeads
from steer_server.errors import DeniedError, EngineError, RequestError
from steer_server.metrics import Metrics
from steer_server.steering.plan import BASE_PLAN, SteeringPlan
from steer_server.steering.spec import Read

MAX_CHARACTERS = 400_000
"""Of a conversation, with one answer to it."""

Conversation = tuple[Message, ...]
Wanted = tuple[Sequence[LoadedRewardHead], Sequence[tuple[Conversation, str | None]]]
"""Heads, and (messages, answer) of what they are to score."""
HeadScores = dict[str, dict[str, float]]
"""Head id -> `raw` and `calibrated`."""


@dataclass(frozen=True)
class Scores:
    """What was found, an entry per answer."""

    heads: tuple[LoadedRewardHead, ...]
    answers: tuple[HeadScores | None, ...]
    """None: the answer has no text, such as a tool call."""
    cut: tuple[bool, ...]
    """The beginning of the text lies before what some head reads."""
    num_tokens: int
    """Read in all, for the scores alone."""
    read: Read = "turn_end"
    plan: SteeringPlan = BASE_PLAN
    """That the heads' states were computed under."""

    def describe(self) -> dict[str, Any]:
        """As in a response."""
        return {
            "read": self.read,
            "plan": self.plan.digest,
            "heads": {_id(head): head.title for head in self.heads},
            "scores": list(self.answers),
            "cut": list(self.cut),
            "num_tokens": self.num_tokens,
        }

    def calibrated(self, index: int) -> dict[str, float] | None:
        found = self.answers[index]
        return None if found is None else {head: score["calibrated"] for head, score in found.items()}


class Rewards:
    """Scoring on one server."""

    def __init__(
        self, engine: Engine, heads: LoadedHeads, metrics: Metrics, log: ScoreLog | None = None
    ) -> None:
        self._engine, self._heads, self._metrics, self._log = engine, heads, metrics, log

    def hold(self, heads: Sequence[LoadedRewardHead]) -> AbstractAsyncContextManager[None]:
        """Keeps these versions loaded until the block ends. Raises: EngineError when one cannot be loaded."""
        return self._heads.hold(heads)

    async def score(
        self,
        heads: Sequence[LoadedRewardHead],
        texts: Sequence[tuple[Conversation, str | None]],
        given_by: SteeringPlan | None = None,
        cache_salt: str | None = None,
    ) -> Scores:
        """Scores of every answer by exactly these versions.

        Args:
            texts: (messages, answer).
            given_by: the plan that the answers were generated under; None for answers that came from outside.
            cache_salt: the request's own: what is read for it is shared with nobody who has another.

        Raises: RequestError for a text that cannot be read; EngineError.
        """
        (scores,) = await self.score_all([(heads, texts)], given_by, cache_salt)
        return scores

    async def score_all(
        self,
        wanted: Sequence[Wanted],
        given_by: SteeringPlan | None = None,
        cache_salt: str | None = None,
    ) -> list[Scores]:
        """The same for several sets of answers, each by heads of its own, all in one batch of the engine."""
        started = time.perf_counter()
        everyone = {head.digest: head for heads, _ in wanted for head in heads}
        reading = [
            ScoringText(messages, answer, one, cache_salt)
            for heads, texts in wanted
            for messages, answer in texts
            for one in _formats(heads)
            if answer is not None
        ]
        async with self._heads.hold(list(everyone.values())):
            scored = iter(await self._engine.score(reading) if reading else ())
        self._metrics.scoring_seconds.observe(time.perf_counter() - started)
        found = [_collected(heads, texts, scored) for heads, texts in wanted]
        for scores in found:
            self._note(scores, given_by)
        return found

    def of_generation(
        self,
        heads: Sequence[LoadedRewardHead],
        answers: Sequence[str | None],
        read: ChoiceScores,
        plan: SteeringPlan,
    ) -> Scores:
        """Scores of choices that were read while they were generated.

        Args:
            answers: the text of every choice.
            plan: that they were generated under.

        Raises: EngineError when one has a text and no score.
        """
        scored = tuple(
            None if answer is None else {_id(head): _score(head, read.get(i, {})) for head in heads}
            for i, answer in enumerate(answers)
        )
        scores = Scores(tuple(heads), scored, (False,) * len(scored), 0, "generation", plan)
        self._note(scores, plan)
        return scores

    def _note(self, scores: Scores, given_by: SteeringPlan | None) -> None:
        for found in scores.answers:
            if found is None:
                continue
            # What the metric is watched for is the distribution of one quantity.
            if scores.read == "turn_end":
                calibrated = {head: score["calibrated"] for head, score in found.items()}
                self._metrics.note_scores(calibrated, given_by)
            if self._log is not None:
                versions = {_id(head): head.title for head in scores.heads}
                self._log.maybe_write(found, versions, given_by, scores.read)


def check_heads(caller: Caller, heads: Mapping[str, LoadedRewardHead]) -> None:
    """Raises: DeniedError (403) for a head of a culture that the caller's key may not use.

    Args:
        heads: by the place in the request that names each.
    """
    allowed = caller.limits.cultures
    for place, head in heads.items():
        culture = head.manifest.culture
        if allowed is not None and culture is not None and culture.id not in allowed:
            raise DeniedError(
                f"This key may not use {_id(head)!r}, a head of the culture {culture.id!r}.",
                param=place,
                code="culture_not_allowed",
            )


def as_conversation(messages: Any, *, param: str = "messages") -> Conversation:
    """A chat request's messages as heads read them: roles and text.

    Raises: RequestError (400) for what is no list of messages, and for content that is not text.
    """
    if not isinstance(messages, list) or not messages:
        raise RequestError(f"`{param}` must be a list of messages.", param=param, code="invalid_messages")
    conversation = []
    for i, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        text = _text(message.get("content")) if isinstance(message, dict) else None
        if not isinstance(role, str) or text is None:
            raise RequestError(
                "Reward heads read messages with a `role` and a `content` of text alone.",
                param=f"{param}.{i}",
                code="invalid_messages",
            )
        conversation.append({"role": role, "content": text})
    return tuple(conversation)


def check_length(conversation: Conversation, answers: Sequence[str], *, param: str) -> None:
    """Raises: RequestError (400) for a text that is too long even to be looked at."""
    before = num_characters_of(conversation)
    for i, answer in enumerate(answers):
        if before + len(answer) > MAX_CHARACTERS:
            raise RequestError(
                f"The conversation with this answer has {before + len(answer)} characters; at most "
                f"{MAX_CHARACTERS}.",
                param=f"{param}.{i}",
                code="context_length_exceeded",
            )


def num_characters_of(conversation: Conversation) -> int:
    return sum(len(message["content"]) for message in conversation)


def _formats(heads: Sequence[LoadedRewardHead]) -> list[TextFormat]:
    """Each once: heads of one format read the same text."""
    return list(dict.fromkeys(head.config.text_format for head in heads))


def _collected(
    heads: Sequence[LoadedRewardHead],
    texts: Sequence[tuple[Conversation, str | None]],
    scored: Iterator[ScoredText],
) -> Scores:
    """Takes from `scored` what belongs to these texts, in the order in which they were read."""
    answers: list[HeadScores | None] = []
    cut, num_tokens = [], 0
    for _, answer in texts:
        if answer is None:
            answers.append(None)
            cut.append(False)
            continue
        found = {one: next(scored) for one in _formats(heads)}
        answers.append({_id(head): _score(head, found[head.config.text_format].raw) for head in heads})
        cut.append(any(one.is_cut for one in found.values()))
        num_tokens += sum(one.num_tokens for one in found.values())
    return Scores(tuple(heads), tuple(answers), tuple(cut), num_tokens)


def _text(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [part.get("text") for part in content if isinstance(part, dict)]
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if texts and len(texts) == len(content) else None


def _score(head: LoadedRewardHead, raw_by_digest: Mapping[str, float]) -> dict[str, float]:
    raw = raw_by_digest.get(head.digest)
    if raw is None or not math.isfinite(raw):
        raise EngineError(f"The engine gave no score by {head.title}.")
    return {"raw": raw, "calibrated": head.config.calibration(raw)}


def _id(head: LoadedRewardHead) -> str:
    assert head.manifest.head is not None
    return head.manifest.head
