"""Counters and clocks of requests by method: what clients got, how fast, and what runs now."""

from __future__ import annotations

from collections import Counter as Tally

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from steer_server.steering.plan import SteeringPlan

FIRST_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""From a GPU with the prompt in its cache to a queue on two cores."""
OUTPUT_TOKEN_BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
DURATION_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class RequestMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.answered = Counter(
            "steer_requests_total", "Answered requests.", ["route", "method", "status"], registry=registry
        )
        self.errors = Counter(
            "steer_request_errors_total",
            "Requests that ended with an error, by its code.",
            ["route", "method", "code"],
            registry=registry,
        )
        self.duration_seconds = Histogram(
            "steer_request_duration_seconds",
            "From a request's body to its answer's last byte.",
            ["route", "method"],
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self.first_token_seconds = Histogram(
            "steer_time_to_first_token_seconds",
            "From a request's body to its stream's first token.",
            ["method"],
            buckets=FIRST_TOKEN_BUCKETS,
            registry=registry,
        )
        self.output_token_seconds = Histogram(
            "steer_time_per_output_token_seconds",
            "Mean time between the tokens of a streamed choice.",
            ["method"],
            buckets=OUTPUT_TOKEN_BUCKETS,
            registry=registry,
        )
        self.running = Gauge(
            "steer_requests_running", "Requests in the engine now.", ["method"], registry=registry
        )


class InFlight:
    """The plans that the engine runs now."""

    def __init__(self) -> None:
        self._plans: dict[str, SteeringPlan] = {}
        self._num_runs: Tally[str] = Tally()
        """By plan digest."""

    def add(self, plan: SteeringPlan) -> None:
        self._plans[plan.digest] = plan
        self._num_runs[plan.digest] += 1

    def remove(self, plan: SteeringPlan) -> None:
        self._num_runs[plan.digest] -= 1
        if not self._num_runs[plan.digest]:
            del self._num_runs[plan.digest], self._plans[plan.digest]

    def runs(self) -> list[tuple[SteeringPlan, int]]:
        """Every plan but the base model's, and how many requests run under it. Safe from other threads, where
        metrics are read."""
        plans = list(self._plans.values())
        return [(plan, self._num_runs[plan.digest]) for plan in plans if not plan.is_base]
