from __future__ import annotations

import numpy as np
import pytest

from steer_server.evaluation.win_rate.scores import Duel, compare, length_controlled


def duel(score: float, other: float, tokens: int = 10, other_tokens: int = 10, same: bool = False) -> Duel:
    return Duel(score, other, tokens, other_tokens, same)


def test_ties_are_equal_scores_or_equal_texts_and_count_half() -> None:
    row = compare([duel(2, 1), duel(3, 1), duel(0, 1), duel(1, 1), duel(1, 0.9, same=True)], seed=1)
    assert (row["win"], row["tie"], row["lose"], row["prompts"]) == (2, 2, 1, 5)
    assert row["win_rate"] == pytest.approx((2 + 1) / 5)
    low, high = row["win_rate_95"]
    assert low < row["win_rate"] < high


def test_swapping_the_sides_turns_the_row_around() -> None:
    rng = np.random.default_rng(2)
    duels = [duel(*rng.normal(size=2), *map(int, rng.integers(1, 50, 2))) for _ in range(40)]
    swapped = [Duel(d.other_score, d.score, d.other_num_tokens, d.num_tokens) for d in duels]
    one, other = compare(duels, 1), compare(swapped, 1)
    assert one["win"] == other["lose"] and one["mean_tokens"] == other["other_mean_tokens"]
    for key in ("win_rate", "length_controlled_win_rate", "longer_share"):
        assert one[key] + other[key] == pytest.approx(1, abs=2e-4)
    assert one["mean_score_difference"] == pytest.approx(-other["mean_score_difference"])


def test_a_judge_that_only_likes_length_is_at_one_half_when_length_is_controlled() -> None:
    """The setting is mostly longer, and the longer answer mostly wins, by length alone."""
    rng = np.random.default_rng(3)
    longer_N = rng.normal(20, 20, 4000)
    outcome_N = (rng.random(4000) < 1 / (1 + np.exp(-longer_N / 20))).astype(float)
    assert outcome_N.mean() > 0.65
    assert length_controlled(outcome_N, longer_N) == pytest.approx(0.5, abs=0.04)


def test_the_controlled_rate_is_the_fits_probability_at_equal_length() -> None:
    a, b = 0.8, -0.5
    rng = np.random.default_rng(4)
    longer_N = rng.normal(-5, 10, 6000)
    chance_N = 1 / (1 + np.exp(-(a + b * longer_N / longer_N.std())))
    outcome_N = (rng.random(6000) < chance_N).astype(float)
    assert length_controlled(outcome_N, longer_N) == pytest.approx(1 / (1 + np.exp(-a)), abs=0.03)


def test_where_lengths_or_outcomes_do_not_vary_the_controlled_rate_is_the_plain_one() -> None:
    assert length_controlled(np.array([1.0, 0.0, 1.0, 1.0]), np.full(4, 5.0)) == 0.75
    assert length_controlled(np.ones(3), np.array([1.0, 2.0, 3.0])) == 1
    separated = length_controlled(np.array([0.0, 0.0, 1.0, 1.0]), np.array([-2.0, -1.0, 1.0, 2.0]))
    assert separated == pytest.approx(0.5, abs=1e-3)
