"""JSON as its standard has it: what is read here can be written again, by anybody.

Python's reader takes more: NaN, 1e999, half a surrogate pair, and as many levels as its stack has just now.
Each of them fails later, in whoever writes it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from steer_server.errors import short

MAX_LEVELS = 200
"""Lists and objects within each other. Python's stack ends at 1000, and pydantic writes 255."""
MAX_SEARCHED_CHARACTERS = 2**20
"""A longer text is refused without a search for the place: it would take seconds."""

HALF_PAIR = re.compile("[\ud800-\udfff]")
ESCAPED_HALF_PAIR = re.compile(
    # A first half without a second behind it, or a second without a first before it.
    r"\\u[dD](?:[89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u[dD])[c-fC-F]..)",
    re.DOTALL,
)


class JsonError(ValueError):
    """Says what is wrong and how to mend it. `place`: of which field, such as `messages.0.content`."""

    def __init__(self, told: str, place: str | None = None) -> None:
        super().__init__(told)
        self.place = place


def read_json(text: str | bytes) -> Any:
    """Raises: JsonError."""
    endless: list[str] = []

    def number(literal: str) -> float:
        found = float(literal)
        if not math.isfinite(found):
            endless.append(short(literal))
        return found

    too_deep = f"it is nested deeper than {MAX_LEVELS} levels; make it flatter"
    try:
        if isinstance(text, bytes):
            # By itself `json.loads` lets bytes pass that are half a surrogate pair.
            text = text.decode(json.detect_encoding(text))
        value = json.loads(text, parse_float=number, parse_constant=number)
    except RecursionError as error:
        raise JsonError(too_deep) from error
    except ValueError as error:
        raise JsonError(str(error)) from error
    if text.count("[") + text.count("{") > MAX_LEVELS and _is_deeper(value, MAX_LEVELS):
        raise JsonError(too_deep)
    if endless:
        raise _refused(text, value, _is_endless, f"has {endless[0]}; send a finite number or leave it out")
    if _has_half_pair(text):
        told = "has half a surrogate pair, which is no character; send both halves or leave it out"
        raise _refused(text, value, _is_half_pair, told)
    return value


def _is_deeper(value: Any, num_levels: int) -> bool:
    level = [value]
    for _ in range(num_levels):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
    return bool(level)


def _has_half_pair(text: str) -> bool:
    if r"\ud" not in text and r"\uD" not in text:
        return False
    # An escaped backslash begins no escape.
    return ESCAPED_HALF_PAIR.search(text.replace(r"\\", "  ")) is not None


def _is_half_pair(value: Any) -> bool:
    return isinstance(value, str) and HALF_PAIR.search(value) is not None


def _is_endless(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _refused(text: str, value: Any, is_wrong: Callable[[Any], bool], told: str) -> JsonError:
    path = _path(value, is_wrong) if len(text) <= MAX_SEARCHED_CHARACTERS else None
    if not path:
        return JsonError(f"it {told}")
    place = short(".".join(map(str, path)))
    return JsonError(f"`{place}` {told}", place)


def _path(value: Any, is_wrong: Callable[[Any], bool]) -> list[str | int] | None:
    """The keys and indices that lead to the first wrong value, or end with the first wrong key."""
    if not isinstance(value, (dict, list)):
        return [] if is_wrong(value) else None
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        rest = [] if is_wrong(key) else _path(inner, is_wrong)
        if rest is not None:
            return [key, *rest]
    return None
