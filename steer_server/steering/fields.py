"""Checked values of a request's fields. Each raises RequestError (400) that names the field."""

from __future__ import annotations

import math
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


def json_type(value: Any) -> str:
    """What JSON calls it, with its article."""
    if value is None:
        return "null"
    names = {bool: "a boolean", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")
