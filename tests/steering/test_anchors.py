"""The promises of `steering.anchors`, numbered as there, on random anchors and on grids, which have ties."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer_server.steering.anchors import PARTS, anchor_weights, as_point, missing_vertices

Vectors = list[list[float]]


def grid(num_axes: int, steps: int) -> Vectors:
    """All vectors in multiples of 1/steps: squares and cubes among them, on which Delaunay is undecided."""
    every = itertools.product(range(steps + 1), repeat=num_axes)
    return [[part / steps for part in parts] for parts in every if sum(parts) == steps]


def scattered(num_axes: int, more: int) -> Vectors:
    """The vertices, and others that weigh every axis at least a little."""
    drawn = np.random.default_rng(num_axes).dirichlet([0.7] * num_axes, more)
    return [*np.eye(num_axes).tolist(), *(0.9 * drawn + 0.1 / num_axes).tolist()]


SETS = {
    "two axes": scattered(2, 5),
    "three axes": scattered(3, 9),
    "five axes": scattered(5, 12),
    "vertices alone": np.eye(4).tolist(),
    "an axis alone between two": grid(2, 1),
    "edges and middle": [*grid(3, 2), [1 / 3, 1 / 3, 1 / 3]],
    "a grid of triangles": grid(3, 4),
    "a grid with squares": grid(4, 2),
}
each_set = pytest.mark.parametrize("anchors", SETS.values(), ids=SETS.keys())


def preferences(anchors: Vectors, count: int = 60) -> Vectors:
    """Anywhere, on faces, and half way between two anchors."""
    rng = random.Random(5)
    found = []
    for _ in range(count):
        free = [rng.expovariate(1) for _ in anchors[0]]
        face = [*free[:-1], 0.0]
        between = [(x + y) / 2 for x, y in zip(*rng.sample(anchors, 2), strict=True)]
        found += [[x / sum(one) for x in one] for one in (free, face, between)]
    return found


@each_set
def test_1_at_an_anchor_that_anchor_alone_counts(anchors: Vectors) -> None:
    for i, anchor in enumerate(anchors):
        assert anchor_weights(anchors, anchor) == tuple(float(i == j) for j in range(len(anchors)))


@each_set
def test_2_weights_are_a_partition_of_one_among_few_that_gives_the_vector_back(anchors: Vectors) -> None:
    for preference in preferences(anchors):
        weights = np.array(anchor_weights(anchors, preference))
        assert weights.min() >= 0 and weights.sum() == pytest.approx(1, abs=1e-12)
        assert (weights > 0).sum() <= len(preference)
        assert weights @ np.array(anchors) == pytest.approx(np.array(preference), abs=3 / PARTS)


@each_set
def test_3_weights_are_continuous(anchors: Vectors) -> None:
    """A small step changes them little, also across the sides of simplices; flat ones are steep, to 1000."""
    rng = random.Random(6)
    for start in preferences(anchors, 25):
        moved = [max(0.0, x + rng.uniform(-1, 1) * 1e-5) for x in start]
        step = np.subtract(anchor_weights(anchors, moved), anchor_weights(anchors, start))
        assert np.abs(step).max() < 0.02, (start, moved)


@each_set
def test_4_the_order_of_anchors_is_irrelevant(anchors: Vectors) -> None:
    shuffled = list(enumerate(anchors))
    random.Random(7).shuffle(shuffled)
    for preference in preferences(anchors, 20):
        found = anchor_weights([anchor for _, anchor in shuffled], preference)
        assert [found[k] for k in np.argsort([i for i, _ in shuffled])] == list(
            anchor_weights(anchors, preference)
        )


@each_set
def test_5_an_axis_without_weight_brings_in_no_anchor_that_weighs_it(anchors: Vectors) -> None:
    for preference in preferences(anchors, 20):
        for anchor, weight in zip(anchors, anchor_weights(anchors, preference), strict=True):
            assert not weight or all(p > 0 for p, a in zip(preference, anchor, strict=True) if a > 0)


@each_set
def test_no_other_weights_lie_lower(anchors: Vectors) -> None:
    """`Σ w |a|²` against a linear program that somebody else solves: the neighbours are Delaunay's."""
    optimize = pytest.importorskip("scipy.optimize")
    points = np.array(anchors)
    heights = (points**2).sum(1)
    for preference in preferences(anchors, 20):
        best = optimize.linprog(heights, A_eq=points.T, b_eq=preference, bounds=(0, None)).fun
        assert heights @ anchor_weights(anchors, preference) == pytest.approx(best, abs=1e-5)


def test_between_two_neighbours_the_two_are_blended() -> None:
    anchors = [[1.0, 0.0], [0.6, 0.4], [0.0, 1.0]]
    assert anchor_weights(anchors, [0.8, 0.2]) == pytest.approx((0.5, 0.5, 0.0))
    assert anchor_weights(anchors, [0.15, 0.85]) == pytest.approx((0.0, 0.25, 0.75))


def test_vertices_alone_give_the_vector_itself() -> None:
    assert anchor_weights(np.eye(3).tolist(), [0.2, 0.3, 0.5]) == pytest.approx((0.2, 0.3, 0.5))


def test_of_a_square_one_diagonal_is_taken() -> None:
    """Four anchors around the middle of three axes and two others: any of two triangulations would do."""
    middle = [0.25] * 4
    used = [a for a, w in zip(grid(4, 2), anchor_weights(grid(4, 2), middle), strict=True) if w]
    assert len(used) == 2 and np.sum(used, axis=0).tolist() == [0.5] * 4


@given(
    st.lists(st.floats(0, 1e9, allow_subnormal=False), min_size=2, max_size=6).filter(any),
    st.floats(1e-3, 1e3),
)
def test_a_point_does_not_depend_on_the_vectors_length(weights: list[float], factor: float) -> None:
    point, scaled = as_point(weights), as_point([weight * factor for weight in weights])
    assert sum(point) == sum(scaled) == PARTS and min(point) >= 0
    assert max(abs(x - y) for x, y in zip(point, scaled, strict=True)) <= len(weights)


def test_a_third_is_a_third_however_it_is_written() -> None:
    assert as_point([1, 1, 1]) == as_point([0.333, 0.333, 0.333]) == as_point([1 / 3, 1 / 3, 1 / 3])


def test_missing_vertices_are_found() -> None:
    assert missing_vertices([as_point([1, 0, 0]), as_point([0, 0.999, 0.001])], 3) == [1, 2]
