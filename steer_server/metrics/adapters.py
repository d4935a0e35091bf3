"""Metrics of each adapter, to see which one is to blame. Their series go when it is no longer served.

A request under a blend counts for each of its adapters, and for none that has been removed meanwhile: a
request that ends late must not bring series back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Histogram, Summary

from steer_server.steering.plan import SteeringPlan

FIRST_TOKEN_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Fewer than by method: they are multiplied by the number of adapters."""

BASE = "none"
"""In place of an adapter, for answers of the base model."""


class Outcome(StrEnum):
    """How a request ended, as its adapters see it."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """4xx, or no room."""
    FAILED = "failed"
    """5xx, or an error in the stream."""
    LEFT = "left"
    """The client went away."""


class AdapterMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests_total = Counter(
            "steer_adapter_requests_total",
            "Requests under an adapter, by how they ended.",
            ["adapter", "outcome"],
            registry=registry,
        )
        self.first_token_seconds = Histogram(
            "steer_adapter_time_to_first_token_seconds",
            "As steer_time_to_first_token_seconds.",
            ["adapter"],
            buckets=FIRST_TOKEN_BUCKETS,
            registry=registry,
        )
        self.output_token_seconds = Summary(
            "steer_adapter_time_per_output_token_seconds",
            "As steer_time_per_output_token_seconds.",
            ["adapter"],
            registry=registry,
        )
        self.duration_seconds = Summary(
            "steer_adapter_request_duration_seconds",
            "As steer_request_duration_seconds.",
            ["adapter"],
            registry=registry,
        )
        self.slot_wait_seconds = Summary(
            "steer_adapter_slot_wait_seconds", "As steer_slot_wait_seconds.", ["adapter"], registry=registry
        )
        self.slot_loads_total = Counter(
            "steer_adapter_slot_loads_total",
            "Times an adapter was loaded into a slot, or could not be.",
            ["adapter", "outcome"],
            registry=registry,
        )
        self.reward_score = Summary(
            "steer_adapter_reward_score",
            "Calibrated scores of answers under an adapter.",
            ["head", "adapter"],
            registry=registry,
        )
        self._served: frozenset[str] = frozenset()

    def keep(self, served: Iterable[str]) -> None:
        """Counts for these `name@version` from now on, and forgets the series of all others."""
        before, self._served = self._served, frozenset(served)
        for adapter in before - self._served:
            for metric in (
                self.requests_total,
                self.first_token_seconds,
                self.output_token_seconds,
                self.duration_seconds,
                self.slot_wait_seconds,
                self.slot_loads_total,
                self.reward_score,
            ):
                metric.remove_by_labels({"adapter": adapter})

    def of(self, plan: SteeringPlan) -> Iterator[str]:
        """The adapters of a plan that are counted for."""
        titles = (f"{gate.name}@{gate.version}" for gate in plan.adapters)
        return (title for title in titles if title in self._served)

    def note_load(self, adapter: str, outcome: Outcome) -> None:
        """One that is only being probed is not served yet, and counts in `steer_probe_seconds`."""
        if adapter in self._served:
            self.slot_loads_total.labels(adapter, outcome).inc()

    def note_scores(self, calibrated: Mapping[str, float], plan: SteeringPlan) -> None:
        """Args: calibrated: by head id, of one answer given under the plan."""
        for adapter in [BASE] if plan.is_base else self.of(plan):
            for head, score in calibrated.items():
                self.reward_score.labels(head, adapter).observe(score)
