"""Writes what was applied into an answer: a header, a body object, or the last chunk of a stream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from steer_server.errors import SteerError
from steer_server.observing.timings import Timings
from steer_server.steering.plan import SteeringPlan

PLAN_HEADER = "X-Steering-Plan"
DONE = "data: [DONE]"
ERROR_PREFIX = 'data: {"error"'


def steering_object(plan: SteeringPlan, timings: Timings, rewards: Mapping[str, Any]) -> dict[str, Any]:
    """The response's `steering`. Args: rewards: empty when no reward heads were asked for."""
    return {**plan.describe(), "rewards": dict(rewards), "timings_ms": timings.milliseconds()}


def answer_texts(body: Mapping[str, Any]) -> list[str | None]:
    """The text of each choice of a chat answer; None for one without any, such as a tool call."""
    return [choice.get("message", {}).get("content") or None for choice in body["choices"]]


@dataclass
class GatheredAnswers:
    """The texts of a stream's choices, which `read` gathers while it passes the events on."""

    _by_index: dict[int, str] = field(default_factory=dict)

    @property
    def texts(self) -> list[str | None]:
        """As `answer_texts`, in order of the choices' indices."""
        return [text or None for _, text in sorted(self._by_index.items())]

    async def read(self, events: AsyncIterator[str]) -> AsyncIterator[str]:
        async for event in events:
            if event.startswith("data: {"):
                for choice in json.loads(event.removeprefix("data: ")).get("choices", ()):
                    text = choice.get("delta", {}).get("content") or ""
                    before = self._by_index.get(choice["index"], "")
                    self._by_index[choice["index"]] = before + text
            yield event


async def with_last_chunk(
    events: AsyncIterator[str], describe: Callable[[], Awaitable[dict[str, Any]]]
) -> AsyncIterator[str]:
    """The same SSE events with one more before `[DONE]`: empty `choices` and the `steering` object, as
    OpenAI does with usage. A stream that ended in an error gets none; if the object cannot be made, there is
    an error in its place."""
    envelope: dict[str, Any] | None = None
    has_failed = False
    async for event in events:
        if event.startswith(DONE) and not has_failed:
            yield await _steering_event(envelope or {}, describe)
        elif event.startswith(ERROR_PREFIX):
            has_failed = True
        elif envelope is None and event.startswith("data: {"):
            chunk = json.loads(event.removeprefix("data: "))
            envelope = {key: chunk[key] for key in ("id", "object", "created", "model") if key in chunk}
        yield event


async def _steering_event(
    envelope: Mapping[str, Any], describe: Callable[[], Awaitable[dict[str, Any]]]
) -> str:
    try:
        chunk = {**envelope, "choices": [], "steering": await describe()}
    except SteerError as error:
        chunk = error.body()
    return f"data: {json.dumps(chunk)}\n\n"
