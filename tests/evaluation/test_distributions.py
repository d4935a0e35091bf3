import math

import numpy as np
import pytest

from steer_server.evaluation.distributions import (
    entropy_bits,
    jensen_shannon_bits,
    mean_shares,
    softmax,
    uniform_bits,
    wasserstein_1,
)


def test_the_divergence_is_the_mean_of_two_divergences_from_the_middle_in_bits() -> None:
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.1, 0.2, 0.7])
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]

    def kl(a: np.ndarray) -> float:
        return sum(x * math.log2(x / m) for x, m in zip(a, middle, strict=True) if x > 0)

    assert jensen_shannon_bits(p, q) == pytest.approx(0.5 * kl(p) + 0.5 * kl(q))


def test_equal_answers_are_0_bits_apart_and_disjoint_ones_1_bit() -> None:
    assert jensen_shannon_bits(np.array([0.3, 0.7]), np.array([0.3, 0.7])) == 0
    assert jensen_shannon_bits(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(1)


def test_what_uniform_answers_score_is_a_mean_over_questions() -> None:
    people = [[0.9, 0.1], [0.2, 0.3, 0.5]]
    scores = [jensen_shannon_bits(np.full(len(p), 1 / len(p)), np.array(p)) for p in people]
    assert uniform_bits(people) == pytest.approx(sum(scores) / 2)


def test_the_wasserstein_distance_is_the_share_of_the_scale_that_answers_move() -> None:
    ends = np.array([[1.0, 0, 0, 0, 0], [0, 0, 0, 0, 1.0]])
    assert wasserstein_1(ends[0], ends[1]) == pytest.approx(1)
    assert wasserstein_1(ends[0], np.array([0, 1.0, 0, 0, 0])) == pytest.approx(0.25)
    assert wasserstein_1(ends, np.full(5, 0.2)).shape == (2,)


def test_entropy_is_0_for_one_answer_and_log2_n_for_n_equal_ones() -> None:
    assert entropy_bits(np.array([1.0, 0.0])) == 0
    assert entropy_bits(np.full(8, 1 / 8)) == pytest.approx(3)


def test_softmax_and_the_mean_of_distributions_sum_to_1() -> None:
    assert softmax(np.log(np.array([[2.0, 6.0]]))).tolist() == [[pytest.approx(0.25), pytest.approx(0.75)]]
    assert mean_shares([[0.2, 0.8], [0.6, 0.4]]).tolist() == [pytest.approx(0.4), pytest.approx(0.6)]
