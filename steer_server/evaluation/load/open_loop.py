"""Requests at a fixed rate, whatever becomes of earlier ones, and the highest rate that is kept up.

A closed loop sends the next request when one has ended, so a server that stalls is asked less while it
stalls, and the wait of those who would have come is never seen (coordinated omission). Here every request has
a time at which it is due, decided beforehand, and all latencies count from it.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from steer_server.progress import Progress

MIN_ANSWERED = 0.99
MIN_FINISHED = 0.9
RATE_STEP = 1.2
"""Two rates nearer than this are not told apart."""
MAX_TRIES = 12
RAMP_WINDOWS = 0.5
"""Seconds of warm-up, as a share of the window that is measured."""


class Arrivals(StrEnum):
    POISSON = "poisson"
    """As from many people who know nothing of each other."""
    EVEN = "even"


@dataclass(frozen=True)
class Sent:
    """One request. Times are of `time.perf_counter`."""

    due: float
    began: float
    """Later than `due` when the measuring side was late."""
    ended: float
    problem: str
    """A word for how it failed; empty when it ended as it should."""


S = TypeVar("S", bound=Sent)


@dataclass(frozen=True)
class Window(Generic[S]):
    """Requests at one rate. Those due in `seconds` from `opened` on are measured; before, load builds up."""

    rate: float
    """Asked for, requests per second."""
    opened: float
    seconds: float
    sent: Sequence[S]
    """All of them, those before the window too."""

    @property
    def measured(self) -> list[S]:
        return [one for one in self.sent if self.opened <= one.due < self.opened + self.seconds]

    @property
    def answered_share(self) -> float:
        measured = self.measured
        return sum(not one.problem for one in measured) / len(measured) if measured else 0.0

    @property
    def num_finished(self) -> int:
        """Requests that ended in the window as they should, whenever they were due."""
        closed = self.opened + self.seconds
        return sum(not one.problem and self.opened <= one.ended < closed for one in self.sent)

    @property
    def is_sustained(self) -> bool:
        """At least 99 % of the requests ended as they should, and as many requests ended in the window as
        were due in it, less 10 %: no line grows."""
        measured = self.measured
        return (
            bool(measured)
            and self.answered_share >= MIN_ANSWERED
            and self.num_finished >= MIN_FINISHED * len(measured)
        )


def arrival_seconds(rate: float, seconds: float, arrivals: Arrivals, rng: random.Random) -> list[float]:
    """When requests are due, in 0..seconds.

    Semantics: even: i / rate. Poisson: sums of exponential gaps of mean 1 / rate.
    """
    if arrivals is Arrivals.EVEN:
        return [i / rate for i in range(math.ceil(seconds * rate))]
    found = [rng.expovariate(rate)]
    while found[-1] < seconds:
        found.append(found[-1] + rng.expovariate(rate))
    return found[:-1]


async def run_window(
    what: str,
    rate: float,
    seconds: float,
    arrivals: Arrivals,
    rng: random.Random,
    send: Callable[[float], Awaitable[S]],
    ramp_seconds: float | None = None,
) -> Window[S]:
    """Sends at this rate and returns when every request has ended.

    Args:
        what: for the progress.
        send: one request, given when it is due; it catches what goes wrong, and ends some time.
        ramp_seconds: of load before the window; half of the window unless given.
    """
    ramp = RAMP_WINDOWS * seconds if ramp_seconds is None else ramp_seconds
    offsets = arrival_seconds(rate, ramp + seconds, arrivals, rng)
    sent: list[S] = []
    started = time.perf_counter()
    with Progress(f"{what} at {rate:.3g}/s", len(offsets), "requests") as progress:

        async def send_one(due: float) -> None:
            sent.append(await send(due))
            progress.advance()

        async with asyncio.TaskGroup() as group:
            for offset in offsets:
                await asyncio.sleep(max(0.0, started + offset - time.perf_counter()))
                group.create_task(send_one(started + offset))
    return Window(rate, started + ramp, seconds, sorted(sent, key=lambda one: one.due))


async def find_sustained_rate(
    measure: Callable[[float], Awaitable[Window[S]]], first: float
) -> tuple[float, list[Window[S]]]:
    """The highest rate that is sustained, within a factor of 1.2, and every window that was tried; 0 when
    none was. The rate is doubled until it is not sustained any more, or halved until it is; then the middle
    (of the logarithms) between the best and the worst is tried until they are near enough.
    """
    low, high, rate = 0.0, math.inf, first
    tried: list[Window[S]] = []
    while len(tried) < MAX_TRIES and high > RATE_STEP * low:
        tried.append(await measure(rate))
        if tried[-1].is_sustained:
            low = rate
        else:
            high = rate
        rate = high / 2 if not low else min(2 * low, math.sqrt(low * high))
    return low, tried
