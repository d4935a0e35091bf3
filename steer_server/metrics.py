"""Metrics beside vLLM's on `/metrics`.

steer_requests_total{route,method,status}   answered requests; status is the HTTP code
steer_requests_refused_total                no bank slot came free
steer_requests_running{method}              in the engine or at an upstream now
steer_plan_seconds                          finding and building the plan (tens of microseconds)
steer_slot_wait_seconds                     wait for bank slots; 0 when all adapters are resident
steer_slot_load_seconds                     loading one adapter into a slot
steer_adapters_active                       adapters that may be used now
steer_upstream_requests_total{upstream,outcome}
                                            attempts, by how they ended: a class of status such as 2xx,
                                            `client_left`, or an error's code such as `upstream_timeout`
steer_upstream_retries_total{upstream}      attempts that were not the first
steer_upstream_first_byte_seconds{upstream} to the first byte of an answer, retries included
steer_upstream_breaker_state{upstream}      0 closed, 1 half open, 2 open: requests are refused
steer_slots_resident                        bank slots that hold an adapter
steer_slots_leased                          bank slots that requests or loads hold now
steer_requests_waiting                      requests that wait for bank slots
steer_reward_score{head,origin}             calibrated scores; of answers given here (`answer`: every choice
                                            and candidate) or sent to `/v1/rewards` (`request`); a head's
                                            series go when it is no longer served
steer_scoring_seconds                       scoring one request's answers, the loading of heads included
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from steer_server.engine.leases import SlotLeases
from steer_server.steering.plan import SteeringPlan

SCORE_ORIGINS = ("answer", "request")


class Metrics:
    """One set of collectors. The registry is an argument, so that each test has its own."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.requests_total = Counter(
            "steer_requests_total", "Answered requests.", ["route", "method", "status"], registry=registry
        )
        self.refused_total = Counter(
            "steer_requests_refused_total", "Requests for which no bank slot came free.", registry=registry
        )
        self.running = Gauge(
            "steer_requests_running", "Requests in the engine now.", ["method"], registry=registry
        )
        self.plan_seconds = Histogram(
            "steer_plan_seconds",
            "Finding and building the plan.",
            buckets=(1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 1e-2),
            registry=registry,
        )
        self.slot_wait_seconds = Histogram(
            "steer_slot_wait_seconds",
            "Wait for bank slots.",
            buckets=(1e-4, 1e-3, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60),
            registry=registry,
        )
        self.slot_load_seconds = Histogram(
            "steer_slot_load_seconds",
            "Loading one adapter into a slot.",
            buckets=(0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30),
            registry=registry,
        )
        self.adapters_active = Gauge(
            "steer_adapters_active", "Adapters that may be used now.", registry=registry
        )
        self.slots_resident = Gauge(
            "steer_slots_resident", "Bank slots that hold an adapter.", registry=registry
        )
        self.slots_leased = Gauge(
            "steer_slots_leased", "Bank slots that requests or loads hold now.", registry=registry
        )
        self.requests_waiting = Gauge(
            "steer_requests_waiting", "Requests that wait for bank slots.", registry=registry
        )
        self.upstream_requests_total = Counter(
            "steer_upstream_requests_total",
            "Attempts sent to an upstream, by how they ended.",
            ["upstream", "outcome"],
            registry=registry,
        )
        self.upstream_retries_total = Counter(
            "steer_upstream_retries_total",
            "Attempts that were not the first of a request.",
            ["upstream"],
            registry=registry,
        )
        self.upstream_first_byte_seconds = Histogram(
            "steer_upstream_first_byte_seconds",
            "To the first byte of an upstream's answer, retries included.",
            ["upstream"],
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
            registry=registry,
        )
        self.upstream_breaker_state = Gauge(
            "steer_upstream_breaker_state",
            "Whether an upstream is asked: 0 closed, 1 half open, 2 open.",
            ["upstream"],
            registry=registry,
        )

        self.reward_score = Histogram(
            "steer_reward_score",
            "Calibrated scores of answers.",
            ["head", "origin"],
            # Even steps: what moves is the whole distribution, not a tail.
            buckets=[step / 10 for step in range(1, 11)],
            registry=registry,
        )
        self.scoring_seconds = Histogram(
            "steer_scoring_seconds",
            "Scoring one request's answers.",
            buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
            registry=registry,
        )
        self._heads_seen: set[str] = set()

    def note_scores(self, calibrated: Mapping[str, float], given_by: SteeringPlan | None) -> None:
        """Counts one answer's scores, by head id. Args: given_by: None for an answer from outside."""
        origin = SCORE_ORIGINS[0] if given_by is not None else SCORE_ORIGINS[1]
        for head, score in calibrated.items():
            self._heads_seen.add(head)
            self.reward_score.labels(head, origin).observe(score)

    def keep_heads(self, served: Iterable[str]) -> None:
        """Forgets the series of all other heads."""
        for head in self._heads_seen - set(served):
            self._heads_seen.discard(head)
            for origin in SCORE_ORIGINS:
                self.reward_score.labels(head, origin)  # removing what was never counted is an error
                self.reward_score.remove(head, origin)

    def watch_slots(self, leases: SlotLeases) -> None:
        """Reads the slot gauges from the leases whenever they are scraped."""
        self.slots_resident.set_function(lambda: len(leases.resident))
        self.slots_leased.set_function(lambda: leases.num_leased_slots)
        self.requests_waiting.set_function(lambda: leases.num_waiting)
