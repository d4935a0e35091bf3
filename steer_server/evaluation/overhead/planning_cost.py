"""Time to turn a request's `steering` into a plan, and the plan into what is sent on, without a server."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from steer_server.api.encode import steering_object
from steer_server.catalogue.snapshot import Catalogue
from steer_server.observing.timings import Timings
from steer_server.steering.plan import build_plan
from steer_server.steering.policy import Policy
from steer_server.steering.spec import parse_spec

NUM_ADAPTERS = (1, 3, 8)
TARGET_US = 300.0
STEPS = {
    "parse": "parse_spec: the decoded JSON, checked",
    "plan": "build_plan: names, policy, gates",
    "digest": "SHA-256 of adapters and gates",
    "for the engine": "to_json: what the workers get",
    "for the client": "the response's `steering`, as JSON",
}
"""In their order on a request's path."""


def measure_planning(
    catalogue: Catalogue, rounds: int, clock_ns: Callable[[], int] = time.perf_counter_ns
) -> dict[str, Any]:
    """Median and 99th percentile in microseconds, by number of blended cultures: of each step, and of all
    together. Every blend is another one, so that nothing is remembered.

    Args:
        rounds: blends of each size.
    """
    cultures = sorted(catalogue.cultures)
    policy = Policy()
    sizes = sorted({min(size, len(cultures), policy.max_adapters) for size in NUM_ADAPTERS})
    found = {}
    for size in sizes:
        times: dict[str, list[int]] = {step: [] for step in (*STEPS, "all")}
        for number in range(rounds):
            at = _planned_at(_document(cultures[:size], number), catalogue, policy, clock_ns)
            for step, start, end in zip(STEPS, at, at[1:], strict=False):
                times[step].append(end - start)
            times["all"].append(at[-1] - at[0])
        found[str(size)] = {step: _microseconds(taken) for step, taken in times.items()}
    return {"rounds": rounds, "by_adapters": found}


def _document(cultures: Sequence[str], number: int) -> dict[str, Any]:
    weights = [(1 + (number + 101 * i) % 999) / 1000 for i in range(len(cultures))]
    return {"cultures": dict(zip(cultures, weights, strict=True))}


def _planned_at(
    document: dict[str, Any], catalogue: Catalogue, policy: Policy, clock_ns: Callable[[], int]
) -> list[int]:
    """The time before and between the steps, and after the last."""
    at = [clock_ns()]
    spec = parse_spec(document)
    at.append(clock_ns())
    plan = build_plan(spec, catalogue, policy)
    at.append(clock_ns())
    _ = plan.digest  # computed once, and kept
    at.append(clock_ns())
    plan.to_json()
    at.append(clock_ns())
    json.dumps(steering_object(plan, Timings(0.0), {}))
    at.append(clock_ns())
    return at


def _microseconds(taken_ns: Sequence[int]) -> dict[str, float]:
    cuts = statistics.quantiles(taken_ns, n=100, method="inclusive")
    return {"p50": round(cuts[49] / 1000, 1), "p99": round(cuts[98] / 1000, 1)}
