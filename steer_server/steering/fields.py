"""Checked values of a request's fields. Each raises RequestError (400) that names the field."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from steer_server.errors import RequestError


def number(value: Any, param: str) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RequestError(f"`{param}` must be a number, not {json_type(value)}.", param=param)
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise RequestError(f"`{param}` must be finite, not {found}.", param=param)
    return found


def count(value: Any, param: str) -> int:
    """A whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RequestError(f"`{param}` must be a whole number of at least 1.", param=param)
    return value


def shares_of(weights: Mapping[str, float]) -> dict[str, float]:
    """`w / Σ w`: weights, none below 0 and one above, on the simplex."""
    total = sum(weights.values())
    if math.isinf(total):
        # Larger together than a float can be. Not otherwise: it would round, and plans' digests change.
        largest = max(weights.values())
        return shares_of({name: weight / largest for name, weight in weights.items()})
    return {name: weight / total for name, weight in weights.items()}


def json_type(value: Any) -> str:
    """What JSON calls it, with its article."""
    if value is None:
        return "null"
    names = {bool: "a boolean", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")
