"""Which version of a name a request may have met: known but for the moments in which an act is under way."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class _Period:
    version: str | None
    """None: no version is active, and requests are refused."""
    since: float
    """When the act that led here was sent."""
    until: float = math.inf
    """When the act that ended it was answered."""


class Timeline:
    """What one operator, the only one, did to each name, on a monotonic clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._periods: dict[str, list[_Period]] = defaultdict(lambda: [_Period(None, -math.inf)])

    def begins(self, name: str, version: str | None) -> None:
        """An act is about to be sent after which the name points at `version`."""
        if self._periods[name][-1].version != version:
            self._periods[name].append(_Period(version, self.clock()))

    def ended(self, name: str) -> None:
        """The act was answered: from now on only its outcome is met."""
        for period in self._periods[name][:-1]:
            period.until = min(period.until, self.clock())

    def active(self, name: str) -> str | None:
        """The version that the name points at, or will in a moment."""
        return self._periods[name][-1].version

    def may_meet(self, name: str, version: str | None, since: float, until: float) -> bool:
        """Whether a request that was sent at `since` and whose answer began at `until` may have met this."""
        return any(
            period.version == version and period.since <= until and since <= period.until
            for period in self._periods[name]
        )
