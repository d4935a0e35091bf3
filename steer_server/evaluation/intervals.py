"""Intervals of a share that was counted, and of a mean over units that were drawn."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Z_95 = 1.959964
NUM_RESAMPLES = 2000


def wilson_95(share: float, num: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a binomial share (0..1) seen in `num` >= 1 independent cases:

        (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)

    Where some cases count half it is too wide rather than too narrow.
    Source: Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    z2 = Z_95**2 / num
    middle = share + z2 / 2
    half = Z_95 * math.sqrt(share * (1 - share) / num + z2 / (4 * num))
    return max(0.0, (middle - half) / (1 + z2)), min(1.0, (middle + half) / (1 + z2))


def bootstrap_95(
    num_units: int,
    statistic: Callable[[np.ndarray], float],
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> tuple[float, float]:
    """2.5 % and 97.5 % quantiles of a statistic over resamples of the units.

    Args:
        statistic: of the indices of a resample (int `[num_units]`), drawn with replacement.
    """
    rng = np.random.default_rng(seed)
    found = [statistic(rng.integers(0, num_units, num_units)) for _ in range(num_resamples)]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
