"""Log-probabilities of texts as a part of a request, which ends with it and when the server ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from steer_server.api.respond import Job
from steer_server.engine.base import ReadText
from steer_server.errors import AbortedError
from steer_server.steering.plan import SteeringPlan


class _Reading:
    """`running.Abortable`."""

    def __init__(self, work: asyncio.Task[list[list[float]]]) -> None:
        self.work = work
        self.aborted: AbortedError | None = None

    def abort(self, reason: str) -> None:
        self.aborted = AbortedError(reason)
        self.work.cancel()


async def read_log_probs(job: Job, plan: SteeringPlan, texts: Sequence[ReadText]) -> list[list[float]]:
    """As `Engine.log_probs`; the caller holds the plan's slots. Raises: SteerError."""
    server = job.server
    work = server.engine.log_probs(texts, plan, job.body.get("cache_salt"))
    reading = _Reading(asyncio.create_task(work))
    server.metrics.begin_run(plan)
    server.running.add(reading, job.digests)
    try:
        return await reading.work
    except asyncio.CancelledError:
        if reading.aborted is not None:
            raise reading.aborted from None
        raise
    finally:
        server.running.remove(reading, job.digests)
        server.metrics.end_run(plan)
