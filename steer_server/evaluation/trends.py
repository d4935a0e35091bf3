"""Whether a number that was sampled over time still grows, beside how much it moves anyway."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

MIN_SAMPLES = 10
NOISES = 3.0
MAX_FITTED = 400
"""Samples a line is laid through; the slopes of all pairs are looked at."""
MAD_TO_DEVIATION = 1.4826
"""Of normally distributed numbers."""


@dataclass(frozen=True)
class Trend:
    """Of the second half of a series; the first half is for whatever is filled once and then kept.

    Semantics: a line is laid through the samples; its slope is the median of the slopes of all pairs (Theil
    and Sen), so that a peak does not tilt it. growth = slope * (last time - first time).
    noise = 1.4826 * median |sample - line|, which estimates the standard deviation.
    Source: Sen (1968), Estimates of the regression coefficient based on Kendall's tau.
    """

    first: float
    """Of the whole series: the median of its first tenth."""
    middle: float
    """Where the line begins."""
    last: float
    growth: float
    noise: float

    def is_flat(self, allowed: float) -> bool:
        """Grows by no more than is allowed, or by no more than three times what it moves anyway."""
        return self.growth <= max(allowed, NOISES * self.noise)

    def describe(self) -> dict[str, float]:
        return {key: round(value, 3) for key, value in asdict(self).items()}


def second_half(seconds: Sequence[float], values: Sequence[float]) -> Trend | None:
    """None where there are too few samples to tell."""
    half = len(values) // 2
    if len(values) - half < MIN_SAMPLES:
        return None
    step = -(-(len(values) - half) // MAX_FITTED)
    late = list(zip(seconds[half:], values[half:], strict=True))[::step]
    slopes = [(w - v) / (t - s) for (s, v), (t, w) in combinations(late, 2) if t > s]
    slope = statistics.median(slopes) if slopes else 0.0
    offset = statistics.median(v - slope * s for s, v in late)
    residuals = [abs(v - slope * s - offset) for s, v in late]
    begin, end = late[0][0], late[-1][0]
    return Trend(
        statistics.median(values[: max(1, len(values) // 10)]),
        offset + slope * begin,
        offset + slope * end,
        slope * (end - begin),
        MAD_TO_DEVIATION * statistics.median(residuals),
    )
