"""A circuit breaker: an upstream that keeps failing is left alone for a while, then tried with one request.

    closed --THRESHOLD failures in a row--> open --open_seconds--> half open --first byte--> closed
                                              ^-------------failure-------------|

Not covered: replicas do not tell each other; each finds out by itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from enum import IntEnum

from steer_server.errors import UpstreamUnavailableError

THRESHOLD = 5
"""Failures in a row that open it."""


class BreakerState(IntEnum):
    """The numbers are those of the metric."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """Of one upstream. All calls come from one event loop."""

    def __init__(
        self,
        upstream: str,
        *,
        open_seconds: float,
        on_change: Callable[[BreakerState], None] = lambda state: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstream, self._open_seconds = upstream, open_seconds
        self._on_change, self._clock = on_change, clock
        self.state = BreakerState.CLOSED
        self._num_failures = 0
        self._closed_until = -math.inf
        """While open: when a probe may be sent."""
        self._probe: Permit | None = None

    def admit(self) -> Permit:
        """Leave to send one request, which must be ended.

        Raises: UpstreamUnavailableError (503) while the upstream is left alone, or is being probed.
        """
        if self.state is BreakerState.CLOSED:
            return Permit(self)
        wait_seconds = self._closed_until - self._clock()
        if wait_seconds > 0 or self._probe is not None:
            raise UpstreamUnavailableError(
                f"The upstream {self._upstream!r} failed repeatedly and is not asked for a moment.",
                retry_after_seconds=max(1, math.ceil(wait_seconds)),
            )
        self._probe = Permit(self)
        self._become(BreakerState.HALF_OPEN)
        return self._probe

    def on_first_byte(self, permit: Permit) -> None:
        # A probe that streams for minutes must not keep all others waiting for its end.
        if permit is self._probe:
            self._probe, self._num_failures = None, 0
            self._become(BreakerState.CLOSED)

    def on_end(self, permit: Permit, has_failed: bool | None) -> None:
        if permit is self._probe:
            self._probe = None
            if has_failed:
                self._open()
            elif has_failed is not None:
                self._num_failures = 0
                self._become(BreakerState.CLOSED)
        elif self.state is BreakerState.CLOSED and has_failed is not None:
            # Requests from before it opened say nothing about now.
            self._num_failures = self._num_failures + 1 if has_failed else 0
            if self._num_failures >= THRESHOLD:
                self._open()

    def _open(self) -> None:
        self._closed_until = self._clock() + self._open_seconds
        self._become(BreakerState.OPEN)

    def _become(self, state: BreakerState) -> None:
        self.state = state
        self._on_change(state)


class Permit:
    """One request's leave. Only the first `end` counts."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self.has_ended = False

    def first_byte(self) -> None:
        """The upstream answers."""
        self._breaker.on_first_byte(self)

    def end(self, has_failed: bool | None) -> None:
        """Args: has_failed: None when that cannot be known, as when the client left."""
        if not self.has_ended:
            self.has_ended = True
            self._breaker.on_end(self, has_failed)
