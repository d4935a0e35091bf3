"""What a manifest says of the experts of a `pareto-expert`: where each lies, and which ranks hold it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from steer_server.settings import MAX_RANK
from steer_server.steering.anchors import PARTS, as_point, missing_vertices

MAX_ANCHORS = 32
"""Planning with 32 anchors on 16 axes takes 2 to 7 ms, with 15 on 3 axes 0.2 ms."""
SUM_TOLERANCE = 0.005
"""Vectors are written by people: three times 0.333 is a third each."""
LEAST_DISTANCE = 0.01
"""Between two anchors on some axis, and of an anchor from the vectors without an axis that it weighs. Nearer
ones would be told apart by requests that mean the same."""

Rank = Annotated[int, Field(ge=0, le=MAX_RANK)]


class Anchor(BaseModel):
    """One expert: an adapter that was made for one preference vector."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vector: Mapping[str, Annotated[float, Field(ge=0, le=1)]]
    """Weight by axis id; axes that it does not name have weight 0."""
    ranks: tuple[Rank, Rank]
    """The ranks (rows of A, columns of B) that hold its update: [first, behind the last]."""

    @property
    def title(self) -> str:
        """Such as `helpful 0.5, harmless 0.5`."""
        return vector_title(self.vector)

    def weights(self, axes: Sequence[str]) -> list[float]:
        """The vector in the order of `axes`."""
        return [self.vector.get(axis, 0.0) for axis in axes]


def vector_title(vector: Mapping[str, float]) -> str:
    return ", ".join(f"{axis} {weight:g}" for axis, weight in vector.items())


def check_vectors(axes: Sequence[str], vectors: Sequence[Mapping[str, float]]) -> None:
    """The vectors can be interpolated over the axes.

    Raises: ValueError that names the anchor by its place, from 1, and the fix.
    """
    if len(axes) < 2:
        raise ValueError("anchors need at least two axes to lie between")
    points = []
    for place, vector in enumerate(vectors, 1):
        if unknown := sorted(set(vector) - set(axes)):
            raise ValueError(f"anchor {place} weighs {unknown[0][:60]!r}, which is none of the axes")
        if not abs((total := math.fsum(vector.values())) - 1) <= SUM_TOLERANCE:
            raise ValueError(f"the vector of anchor {place} adds up to {total:g}, not to 1")
        if faint := [axis for axis, weight in vector.items() if 0 < weight < LEAST_DISTANCE]:
            raise ValueError(f"anchor {place} weighs {faint[0]!r} less than {LEAST_DISTANCE:g}; leave it out")
        points.append(as_point([vector.get(axis, 0.0) for axis in axes]))
    for later, point in enumerate(points, 1):
        for earlier, other in enumerate(points[: later - 1], 1):
            if max(abs(x - y) for x, y in zip(point, other, strict=True)) < LEAST_DISTANCE * PARTS:
                raise ValueError(f"anchors {earlier} and {later} lie at the same place; keep one of them")
    if missing := missing_vertices(points, len(axes)):
        raise ValueError(
            f"no anchor for {axes[missing[0]]!r} alone; every axis needs one, with the vector "
            f"{{{axes[missing[0]]}: 1}}"
        )


def check_blocks(anchors: Sequence[Anchor]) -> None:
    """Every anchor has ranks of its own.

    Raises: ValueError that names the anchor by its place, from 1.
    """
    owner: dict[int, int] = {}
    for place, anchor in enumerate(anchors, 1):
        first, stop = anchor.ranks
        if first >= stop:
            raise ValueError(f"anchor {place} has no ranks: [{first}, {stop}] is [first, behind the last]")
        for rank in range(first, stop):
            if rank in owner:
                raise ValueError(f"rank {rank} belongs to anchors {owner[rank]} and {place}")
            owner[rank] = place
