"""The probe: a few tokens through the real engine, to see that an adapter steers and breaks nothing.

It runs beside other requests, and in bf16 what else is in a batch changes log-probabilities a little. So an
adapter must change something at all, and the base model may only change within `TOLERANCE_NATS`.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from starlette.requests import Request

from steer_server.catalogue.snapshot import LoadedAdapter
from steer_server.engine.base import Engine
from steer_server.engine.leases import SlotLeases
from steer_server.errors import CapacityError, CatalogueError, EngineError, SteerError
from steer_server.steering.plan import BASE_PLAN, AdapterGate, SteeringPlan

PROMPT = "What matters most in life is"
NUM_TOKENS = 4
TOLERANCE_NATS = 1.0
"""Rounding to bf16 was seen to change log-probabilities by 0.35; a base model that was written over changes
them by several."""

logger = logging.getLogger("steer_server.catalogue")


@dataclass(frozen=True)
class ProbeAnswer:
    text: str
    """Greedy."""
    answer_logprobs: tuple[float, ...]
    prompt_logprobs: tuple[float, ...]
    """Of the prompt's own tokens, which do not depend on what was sampled. Empty where an engine has none."""

    def is_near(self, other: ProbeAnswer) -> bool:
        if not self.prompt_logprobs or len(self.prompt_logprobs) != len(other.prompt_logprobs):
            return self == other
        pairs = zip(self.prompt_logprobs, other.prompt_logprobs, strict=True)
        return all(abs(one - two) <= TOLERANCE_NATS for one, two in pairs)

    @property
    def is_finite(self) -> bool:
        return all(map(math.isfinite, self.answer_logprobs + self.prompt_logprobs))


async def probe_base(engine: Engine) -> ProbeAnswer:
    """What the base model says to the probe. Raises: EngineError when it does not answer."""
    try:
        return await _probe(engine, BASE_PLAN)
    except SteerError as error:
        raise EngineError(f"the base model does not answer the probe: {error}") from error


async def probe_adapter(
    engine: Engine, leases: SlotLeases, adapter: LoadedAdapter, base: ProbeAnswer
) -> None:
    """Loads the adapter, all of its axes or anchors weighed the same, and compares.

    Raises: CapacityError when no slot came free; CatalogueError: `probe_failed` (it cannot be loaded or run),
        `probe_not_finite`, `probe_no_effect` (steered equals base) or `probe_base_changed`.
    """
    parts = adapter.manifest.own_ranks.values()
    even = tuple((rank, 1 / len(parts)) for ranks in parts for rank in ranks)
    plan = SteeringPlan("adapters", (AdapterGate(adapter.name, adapter.version, adapter.digest, 1.0, even),))
    try:
        lease = await leases.acquire([adapter])
        try:
            steered = await _probe(engine, plan)
        finally:
            lease.release()
        base_after = await _probe(engine, BASE_PLAN)
    except CapacityError:
        raise
    except SteerError as error:
        raise probe_failed(adapter.name, error) from error
    if not steered.is_finite:
        raise CatalogueError(adapter.name, "probe_not_finite", f"log-probabilities {steered}")
    if steered == base:
        raise CatalogueError(adapter.name, "probe_no_effect", "the steered answer equals the base model's")
    if not base_after.is_near(base):
        raise CatalogueError(adapter.name, "probe_base_changed", "the base model answers differently now")


def probe_failed(name: str, error: SteerError) -> CatalogueError:
    """For the version's `detail`, which every key may read. What the engine said may name our files or the
    plan: the log has it."""
    logger.error("the probe of %s failed", name, exc_info=error)
    return CatalogueError(
        name, "probe_failed", f"the engine could not run it ({error.code}); the server's log says why"
    )


async def _probe(engine: Engine, plan: SteeringPlan) -> ProbeAnswer:
    body = {
        "model": engine.served_name,
        "prompt": PROMPT,
        "max_tokens": NUM_TOKENS,
        "temperature": 0,
        "logprobs": 1,
        "prompt_logprobs": 0,
        # Cached blocks would hide a change of the base model.
        "cache_salt": f"probe-{plan.digest}",
    }
    run = engine.run("completion", body, plan, Request({"type": "http", "headers": [], "method": "POST"}))
    try:
        answer = await run.answer()
    finally:
        await run.stop()
    assert answer.body is not None
    choice = answer.body["choices"][0]
    found = (choice.get("logprobs") or {}).get("token_logprobs") or []
    positions = choice.get("prompt_logprobs") or []
    return ProbeAnswer(
        choice["text"],
        tuple(value for value in found if value is not None),
        tuple(float(next(iter(tokens.values()))["logprob"]) for tokens in positions if tokens),
    )
