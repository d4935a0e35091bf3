from __future__ import annotations

import numpy as np
import pytest

from steer_server.evaluation.intervals import Z_95, bootstrap_95, wilson_95


@pytest.mark.parametrize(("share", "num"), [(0.3, 10), (0.5, 100), (0.95, 40)])
def test_the_bounds_of_wilsons_interval_are_just_not_rejected(share: float, num: int) -> None:
    """It holds the shares q with |p - q| <= z sqrt(q(1-q)/n)."""
    for bound in wilson_95(share, num):
        assert abs(share - bound) == pytest.approx(Z_95 * np.sqrt(bound * (1 - bound) / num))


def test_a_share_of_all_or_nothing_has_an_interval_too() -> None:
    low, high = wilson_95(1.0, 10)
    assert high == pytest.approx(1) and low == pytest.approx(10 / (10 + Z_95**2))
    assert wilson_95(0.0, 10) == pytest.approx((1 - high, 1 - low))


def test_a_resampled_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    low, high = bootstrap_95(len(values), lambda chosen: float(values[chosen].mean()), seed=7)
    half = Z_95 * values.std() / np.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.2 * half)
    assert (low, high) == bootstrap_95(len(values), lambda chosen: float(values[chosen].mean()), seed=7)
