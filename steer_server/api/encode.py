"""Writes what was applied into an answer: a header, a body object, or the last chunk of a stream."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from steer_server.steering.plan import SteeringPlan

PLAN_HEADER = "X-Steering-Plan"
DONE = "data: [DONE]"
ERROR_PREFIX = 'data: {"error"'


@dataclass
class Timings:
    """Wall time of each hop."""

    started: float
    plan_seconds: float = 0.0
    queue_seconds: float = 0.0

    def milliseconds(self) -> dict[str, float]:
        """`total` includes `plan` and `queue` (the wait for bank slots)."""
        total = time.perf_counter() - self.started
        seconds = {"plan": self.plan_seconds, "queue": self.queue_seconds, "total": total}
        return {name: round(value * 1000, 3) for name, value in seconds.items()}


def steering_object(plan: SteeringPlan, timings: Timings) -> dict[str, Any]:
    """The response's `steering`."""
    return {**plan.describe(), "rewards": {}, "timings_ms": timings.milliseconds()}


async def with_last_chunk(
    events: AsyncIterator[str], describe: Callable[[], dict[str, Any]]
) -> AsyncIterator[str]:
    """The same SSE events with one more before `[DONE]`: empty `choices` and the `steering` object, as
    OpenAI does with usage. A stream that ended in an error gets none."""
    envelope: dict[str, Any] | None = None
    has_failed = False
    async for event in events:
        if event.startswith(DONE) and not has_failed:
            yield f"data: {json.dumps({**(envelope or {}), 'choices': [], 'steering': describe()})}\n\n"
        elif event.startswith(ERROR_PREFIX):
            has_failed = True
        elif envelope is None and event.startswith("data: {"):
            chunk = json.loads(event.removeprefix("data: "))
            envelope = {key: chunk[key] for key in ("id", "object", "created", "model") if key in chunk}
        yield event
