"""How much each anchor counts at a preference vector: piecewise linear between the nearest anchors.

Anchors are points on the simplex of m value axes, its m vertices among them. They are triangulated as
Delaunay does, so a preference vector lies in one small simplex of neighbouring anchors, and its barycentric
coordinates there are their weights.

1. At an anchor, that anchor alone counts, with weight 1.
2. Weights are at least 0, add up to 1, and at most m of them are not 0.
3. They are continuous in the preference vector.
4. The order of the anchors is irrelevant.
5. An anchor that weighs an axis counts only where the preference vector weighs that axis too.

Everything is computed in whole numbers, so nothing depends on rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

PARTS = 10**6
"""Vectors are rounded to millionths, so that equal ones are equal however they were computed."""

Point = tuple[int, ...]


def as_point(weights: Sequence[float]) -> Point:
    """The nearest point of the simplex in millionths; they add up to `PARTS`.

    Args:
        weights: at least 0 and not all 0; need not add up to 1.
    """
    total = sum(weights)
    parts = [round(weight / total * PARTS) for weight in weights]
    parts[parts.index(max(parts))] += PARTS - sum(parts)
    return tuple(parts)


def missing_vertices(points: Sequence[Point], num_axes: int) -> list[int]:
    """The axes that no anchor weighs alone."""
    return [i for i in range(num_axes) if all(point[i] != PARTS for point in points)]


def anchor_weights(anchors: Sequence[Sequence[float]], preference: Sequence[float]) -> tuple[float, ...]:
    """The weight of each anchor, in their order.

    Semantics: `w = argmin Σ_i w_i |a_i|²` subject to `Σ_i w_i a_i = λ` and `w >= 0`. The points `(a, |a|²)`
    lie on a bowl, the facets of its lower hull are Delaunay's simplices, and the minimum is the hull's height
    above λ. Where more than m anchors lie on one empty sphere, as on a grid, Delaunay leaves the
    triangulation open; then |a_i|² counts as larger by an infinitesimal ε^i, with i the anchor's place when
    they are sorted.

    Args:
        anchors: different points of the simplex, its vertices among them.
        preference: λ, up to a factor.
    """
    points = [as_point(anchor) for anchor in anchors]
    assert not missing_vertices(points, len(preference)) and len(set(points)) == len(points)
    order = sorted(range(len(points)), key=points.__getitem__)
    weights = [0.0] * len(points)
    for place, weight in _minimiser([points[i] for i in order], as_point(preference)).items():
        weights[order[place]] = float(weight)
    return tuple(weights)


def _minimiser(points: Sequence[Point], target: Point) -> dict[int, Fraction]:
    """The weights above that are in the basis, by the index of the point.

    The simplex method, which starts at the vertices with `w = λ`. `rows[i][j] / scale` is how much of basis
    member i one unit of point j replaces; the last column is what there is of i, the last row what a unit of
    j adds to the sum. All entries are minors of the first table, so the divisions are exact (Bareiss).
    Bland's rule, the first of those that will do, keeps it from going round in circles.
    """
    num_axes, columns = len(target), range(len(points))
    basis = [points.index(tuple(PARTS * (i == k) for i in range(num_axes))) for k in range(num_axes)]
    # A vertex is counted in millionths, so that the first basis is the identity.
    unit = [PARTS if j in basis else 1 for j in columns]
    rows = [[*(points[j][i] // unit[j] for j in columns), target[i]] for i in range(num_axes)]
    heights = [*(sum(x * x for x in points[j]) // unit[j] for j in columns), 0]
    rows.append([height - PARTS * sum(r[j] for r in rows) for j, height in enumerate(heights)])
    scale = 1

    def lowers(j: int) -> bool:
        """Whether point j lies below the basis' simplex, or on it and is the one to be preferred."""
        if rows[-1][j]:
            return rows[-1][j] < 0
        raised, share = min((basis[i], rows[i][j]) for i in range(num_axes) if rows[i][j])
        return raised < j and share > 0

    while (entering := next(filter(lowers, columns), None)) is not None:
        candidates = [i for i in range(num_axes) if rows[i][entering] > 0]
        leaving = min(candidates, key=lambda i: (Fraction(rows[i][-1], rows[i][entering]), basis[i]))
        pivot_row, pivot = rows[leaving], rows[leaving][entering]
        for i, row in enumerate(rows):
            if i != leaving:
                factor = row[entering]
                rows[i] = [(x * pivot - factor * y) // scale for x, y in zip(row, pivot_row, strict=True)]
        basis[leaving], scale = entering, pivot
    return {j: Fraction(rows[i][-1], scale * unit[j]) for i, j in enumerate(basis)}
