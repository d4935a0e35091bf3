"""Log-probabilities of texts as a part of a request, which ends with it and when the server ends it."""

from __future__ import annotations

from collections.abc import Sequence

from steer_server.api.respond import Job
from steer_server.engine.base import ReadText
from steer_server.steering.plan import SteeringPlan


async def read_log_probs(job: Job, plan: SteeringPlan, texts: Sequence[ReadText]) -> list[list[float]]:
    """As `Engine.log_probs`; the caller holds the plan's slots. Raises: SteerError."""
    server = job.server
    server.metrics.begin_run(plan)
    try:
        work = server.engine.log_probs(texts, plan, job.body.get("cache_salt"))
        return await server.running.result_of(work, job.digests)
    finally:
        server.metrics.end_run(plan)
