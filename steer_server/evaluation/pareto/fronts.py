"""How good a front of solutions is: hypervolume, inner product, sparsity, spacing; and rank correlation.

A solution is one preference vector λ with its objectives J, here of two axes. Objectives are maximised and
lie in 0..1; each solution counts, dominated or not: each is what a client gets who asks for that λ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

Point = tuple[float, float]


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Area that the points dominate above a reference point; larger is better.

    *Semantics*: `vol(∪_p [r_1, p_1] x [r_2, p_2])` over the points with `p > r` in both objectives; any other
    point adds nothing, as its box is empty. In units of objective 1 times objective 2.
    """
    area, height = 0.0, reference[1]
    for x, y in sorted(points, reverse=True):
        if x > reference[0] and y > height:
            area += (x - reference[0]) * (y - height)
            height = y
    return area


def inner_product(weights: Sequence[Point], points: Sequence[Point]) -> float:
    """Mean over solutions of what each is worth to the one who asked for it; larger is better.

    *Semantics*: `1/N Σ_n λ_n · J_n`, 0..1.
    """
    return math.fsum(
        w * j
        for weight, point in zip(weights, points, strict=True)
        for w, j in zip(weight, point, strict=True)
    ) / len(points)


def sparsity(points: Sequence[Point]) -> float | None:
    """Mean squared step between neighbours, each objective sorted by itself; smaller is denser.

    *Semantics*: `1/(N-1) Σ_j Σ_i (J_(i),j - J_(i+1),j)²`; None for one solution. A sweep that does not move
    at all has 0, so it says something only beside the hypervolume.
    """
    if len(points) < 2:
        return None
    steps = [b - a for objective in zip(*points, strict=True) for a, b in pairwise(sorted(objective))]
    return math.fsum(step**2 for step in steps) / (len(points) - 1)


def spacing(points: Sequence[Point]) -> float | None:
    """How uneven the solutions lie; smaller is more even.

    *Semantics*: standard deviation (divisor N) of `d_n = min_{m≠n} ‖J_n - J_m‖₂`; None for one solution. Like
    sparsity 0 for a sweep that does not move.
    """
    if len(points) < 2:
        return None
    nearest = [
        min(math.dist(point, other) for m, other in enumerate(points) if m != n)
        for n, point in enumerate(points)
    ]
    mean = math.fsum(nearest) / len(nearest)
    return math.sqrt(math.fsum((d - mean) ** 2 for d in nearest) / len(nearest))


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Rank correlation, -1..1; ties have the mean of their ranks.

    *Semantics*: Pearson's correlation of the ranks of x and y. 0 where either does not vary, which has no
    correlation: an axis that does not respond is no success.
    """
    ranks_x, ranks_y = _ranks(x), _ranks(y)
    middle = (len(x) + 1) / 2
    products = math.fsum((a - middle) * (b - middle) for a, b in zip(ranks_x, ranks_y, strict=True))
    spread = math.fsum((a - middle) ** 2 for a in ranks_x) * math.fsum((b - middle) ** 2 for b in ranks_y)
    return products / math.sqrt(spread) if spread > 0 else 0.0


def is_monotone(x: Sequence[float], y: Sequence[float]) -> bool:
    """Whether y never falls as x rises, and has risen at the end. x has no ties."""
    ordered = [value for _, value in sorted(zip(x, y, strict=True))]
    return ordered == sorted(ordered) and ordered[0] < ordered[-1]


def _ranks(values: Sequence[float]) -> list[float]:
    """From 1; equal values share the mean of their places."""
    ordered = sorted(values)
    places: dict[float, list[int]] = {}
    for place, value in enumerate(ordered, 1):
        places.setdefault(value, []).append(place)
    return [sum(places[value]) / len(places[value]) for value in values]
