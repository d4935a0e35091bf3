"""What grows is told from what only moves."""

from __future__ import annotations

import random

import pytest

from steer_server.evaluation.trends import Trend, second_half

SECONDS = [2.0 * i for i in range(300)]


def trend(values: list[float]) -> Trend:
    found = second_half(SECONDS, values)
    assert found is not None
    return found


def test_growth_is_that_of_a_line_through_the_second_half_whatever_its_peaks() -> None:
    line = [1000.0 + 0.5 * at for at in SECONDS]
    assert trend(line).growth == pytest.approx(0.5 * 298) and trend(line).noise == pytest.approx(0)
    peaks = [value + 500 * (i % 7 == 0) for i, value in enumerate(line)]
    assert trend(peaks).growth == pytest.approx(0.5 * 298, rel=0.05)
    assert trend(line).first == pytest.approx(1000 + 0.5 * 29)


def test_noise_is_the_standard_deviation_about_the_line() -> None:
    rng = random.Random(1)
    noisy = [1000 + 0.1 * at + rng.gauss(0, 5) for at in SECONDS]
    assert trend(noisy).noise == pytest.approx(5, rel=0.2)
    assert trend(noisy).growth == pytest.approx(30, abs=5)


def test_what_only_grows_at_first_or_less_than_it_moves_is_flat_and_a_leak_is_not() -> None:
    rng = random.Random(1)
    warming = [1000.0 + 100 * min(at, 250) / 250 for at in SECONDS]
    moving = [1000 + rng.gauss(0, 30) for _ in SECONDS]
    leaking = [1000 + 0.05 * at + rng.gauss(0, 1) for at in SECONDS]
    in_steps = [1000 + 4.0 * (at // 40) for at in SECONDS]
    assert trend(warming).is_flat(1.0) and trend(moving).is_flat(1.0)
    assert not trend(leaking).is_flat(8.0) and not trend(in_steps).is_flat(8.0)
    assert trend(leaking).is_flat(20.0)
    shrinking = [1000 - value for value in warming]
    assert trend(shrinking).is_flat(0.0)


def test_of_few_samples_nothing_is_said() -> None:
    assert second_half(SECONDS[:19], SECONDS[:19]) is not None
    assert second_half(SECONDS[:18], SECONDS[:18]) is None
    assert second_half([], []) is None
