"""What is known of one HTTP request while it runs; its log line and its span are made of it at the end."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from steer_server.observing.spans import NO_SPAN, Attributes, Span
from steer_server.observing.timings import Timings
from steer_server.steering.plan import SteeringPlan


@dataclass(eq=False)
class ObservedRequest:
    id: str = ""
    """As the client knows it."""
    span: Span = NO_SPAN
    plan: SteeringPlan | None = None
    method: str | None = None
    """Of steering; None on routes that have none."""
    outcome: str | None = None
    error_code: str | None = None
    first_token_seconds: float | None = None
    timings: Timings | None = None

    def note_error(self, code: str) -> None:
        """The first counts: it is nearest to the cause."""
        self.error_code = self.error_code or code

    @property
    def adapters(self) -> list[str] | None:
        return titles(self.plan)

    def fields(self) -> dict[str, Any]:
        """For the log, without what is not known."""
        first = self.first_token_seconds
        found: dict[str, Any] = {
            "method": self.method,
            "plan": self.plan and self.plan.digest,
            "adapters": self.adapters,
            "outcome": self.outcome,
            "error_code": self.error_code,
            "first_token_ms": None if first is None else round(first * 1000, 3),
            "timings_ms": self.timings and self.timings.milliseconds(),
        }
        return {name: value for name, value in found.items() if value is not None}

    def attributes(self) -> Attributes:
        """For the span."""
        return {
            "steer.method": self.method,
            "steer.plan": self.plan.digest if self.plan else None,
            "steer.adapters": self.adapters,
            "steer.outcome": self.outcome,
            "error.type": self.error_code,
            "gen_ai.response.time_to_first_chunk": self.first_token_seconds,
        }


current_request: ContextVar[ObservedRequest | None] = ContextVar("current_request", default=None)


def observed() -> ObservedRequest:
    """The request that runs now. Outside of any, one that nobody looks at."""
    return current_request.get() or ObservedRequest()


def titles(plan: SteeringPlan | None) -> list[str] | None:
    """`name@version` of a plan's adapters, by name; None without any."""
    if plan is None or plan.is_base:
        return None
    return sorted(f"{gate.name}@{gate.version}" for gate in plan.adapters)
