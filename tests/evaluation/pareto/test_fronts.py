from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer_server.evaluation.pareto.fronts import (
    hypervolume,
    inner_product,
    is_monotone,
    spacing,
    sparsity,
    spearman,
)

HALF = (0.5, 0.5)


def test_the_hypervolume_is_the_area_of_the_union_of_boxes() -> None:
    # (0.9, 0.6): 0.4 x 0.1. (0.7, 0.8): 0.2 wide, the 0.2 of height above 0.6. Together 0.04 + 0.04.
    front = [(0.7, 0.8), (0.9, 0.6)]
    assert hypervolume(front, HALF) == pytest.approx(0.08)
    assert hypervolume(front[::-1], HALF) == pytest.approx(0.08), "in any order"
    assert hypervolume([(0.7, 0.8)], HALF) == pytest.approx(0.2 * 0.3)


def test_dominated_points_and_points_below_the_reference_add_nothing_to_the_hypervolume() -> None:
    front = [(0.7, 0.8), (0.9, 0.6)]
    assert hypervolume([*front, (0.65, 0.7), (0.7, 0.8)], HALF) == pytest.approx(0.08)
    assert hypervolume([*front, (0.99, 0.4), (0.4, 0.99), (0.2, 0.2)], HALF) == pytest.approx(0.08)
    assert hypervolume([(0.99, 0.5), HALF, (0.3, 0.9)], HALF) == 0
    assert hypervolume([], HALF) == 0


@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), max_size=6))
def test_the_hypervolume_counts_the_cells_of_a_grid_that_some_point_dominates(
    points: list[tuple[int, int]],
) -> None:
    cells = {(i, j) for x, y in points for i in range(4, x) for j in range(6, y)}
    assert hypervolume([(float(x), float(y)) for x, y in points], (4.0, 6.0)) == len(cells)


def test_the_inner_product_weighs_each_solution_by_what_was_asked() -> None:
    weights = [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]
    points = [(0.8, 0.1), (0.6, 0.4), (0.1, 0.9)]
    assert inner_product(weights, points) == pytest.approx((0.8 + 0.5 + 0.9) / 3)
    assert inner_product(weights, [HALF] * 3) == pytest.approx(0.5)


def test_sparsity_sorts_each_objective_by_itself() -> None:
    # Steps of 0.1 and 0.3 in the first objective, of 0.2 and 0.2 in the second.
    points = [(0.6, 0.9), (0.5, 0.7), (0.9, 0.5)]
    assert sparsity(points) == pytest.approx((0.01 + 0.09 + 0.04 + 0.04) / 2)
    assert sparsity([HALF, HALF]) == 0
    assert sparsity([HALF]) is None


def test_spacing_is_the_deviation_of_nearest_neighbours_distances() -> None:
    # Nearest neighbours at 0.3, 0.3 and 0.5 (3-4-5 triangles): mean 1.1/3.
    points = [(0.0, 0.0), (0.3, 0.0), (0.6, 0.4)]
    mean = 1.1 / 3
    expected = math.sqrt((2 * (0.3 - mean) ** 2 + (0.5 - mean) ** 2) / 3)
    assert spacing(points) == pytest.approx(expected)
    assert spacing([(0.0, 0.0), (0.1, 0.1), (0.2, 0.2)]) == pytest.approx(0)
    assert spacing([HALF]) is None


def test_rank_correlation_is_one_for_any_rise_and_ties_share_their_ranks() -> None:
    assert spearman([0, 0.5, 1], [0.1, 0.11, 9]) == 1
    assert spearman([0, 0.5, 1], [3, 2, 1]) == -1
    # Without ties 1 - 6 Σd²/(n(n²-1)), here one swap of neighbours: Σd² = 2.
    assert spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(1 - 6 * 2 / (4 * 15))
    # Ranks 1, 2.5, 2.5: products 1·0 … = 1.5, spreads 2 and 1.5.
    assert spearman([1, 2, 3], [5, 7, 7]) == pytest.approx(1.5 / math.sqrt(2 * 1.5))
    assert spearman([1, 2, 3], [5, 5, 5]) == 0, "what does not respond is not correlated"


def test_a_sweep_is_monotone_when_it_rises_and_never_falls() -> None:
    assert is_monotone([0, 0.5, 1], [0.2, 0.2, 0.3])
    assert is_monotone([1, 0.5, 0], [0.3, 0.2, 0.2])
    assert not is_monotone([0, 0.5, 1], [0.2, 0.4, 0.3])
    assert not is_monotone([0, 0.5, 1], [0.2, 0.2, 0.2]), "what does not respond does not follow"
