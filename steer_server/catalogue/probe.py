"""The probe: one token through the real engine, to see that an adapter steers and breaks nothing."""

from __future__ import annotations

import math
from typing import Any

from starlette.requests import Request

from steer_server.catalogue.snapshot import LoadedAdapter
from steer_server.engine.base import Engine
from steer_server.engine.leases import SlotLeases
from steer_server.errors import CatalogueError, EngineError, SteerError
from steer_server.steering.plan import BASE_PLAN, AdapterGate, SteeringPlan

PROMPT = "What matters most in life is"
NUM_TOKENS = 4


async def probe_base(engine: Engine) -> Any:
    """What the base model says to the probe. Raises: EngineError when it does not answer."""
    try:
        return await _probe(engine, BASE_PLAN)
    except SteerError as error:
        raise EngineError(f"the base model does not answer the probe: {error}") from error


async def probe_adapter(engine: Engine, leases: SlotLeases, adapter: LoadedAdapter, base: Any) -> None:
    """Loads the adapter and compares.

    Raises: CatalogueError: `probe_failed` (it cannot be loaded or run), `probe_not_finite`,
        `probe_no_effect` (steered equals base) or `probe_base_changed`.
    """
    gate = AdapterGate(adapter.name, adapter.version, adapter.digest, 1.0)
    axes = tuple((axis.rank_index, 1 / len(adapter.manifest.axes)) for axis in adapter.manifest.axes)
    plan = SteeringPlan("adapters", (AdapterGate(gate.name, gate.version, gate.digest, 1.0, axes),))
    try:
        lease = await leases.acquire([adapter])
        try:
            steered = await _probe(engine, plan)
        finally:
            lease.release()
        base_after = await _probe(engine, BASE_PLAN)
    except SteerError as error:
        raise CatalogueError(adapter.name, "probe_failed", str(error)) from error
    if any(logprob is not None and not math.isfinite(logprob) for logprob in steered[1]):
        raise CatalogueError(adapter.name, "probe_not_finite", f"log-probabilities {steered[1]}")
    if steered == base:
        raise CatalogueError(adapter.name, "probe_no_effect", "the steered answer equals the base model's")
    if base_after != base:
        raise CatalogueError(adapter.name, "probe_base_changed", "the base model answers differently now")


async def _probe(engine: Engine, plan: SteeringPlan) -> tuple[str, list[float]]:
    """(text, log-probability of each token), greedy."""
    body = {
        "model": engine.served_name,
        "prompt": PROMPT,
        "max_tokens": NUM_TOKENS,
        "temperature": 0,
        "logprobs": 1,
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
    return choice["text"], list((choice.get("logprobs") or {}).get("token_logprobs") or [])
