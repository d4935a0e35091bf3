"""JSON as its standard has it: what is read here can be written again, by anybody.

Python's reader takes more: NaN, 1e999, half a surrogate pair, and as many levels as its stack has just now.
Each of them fails later, in whoever writes it.
"""

from __future__ import annotations

import json
import math
import re
from json import JSONDecodeError
from typing import Any

MAX_LEVELS = 200
"""Lists and objects within each other. Python's stack ends at 1000, and pydantic writes 255."""

MAX_SHOWN_CHARACTERS = 40
LONE_SURROGATE = re.compile(
    # A first half without a second behind it, or a second without a first before it.
    r"\\u[dD](?:[89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u[dD])[c-fC-F]..)",
    re.DOTALL,
)


def read_json(text: str | bytes) -> Any:
    """Raises: ValueError that says what is wrong, where, and how to mend it."""
    if isinstance(text, bytes):
        # By itself `json.loads` lets bytes pass that are half a surrogate pair.
        text = text.decode(json.detect_encoding(text))

    def number(literal: str) -> float:
        found = float(literal)
        if not math.isfinite(found):
            shown = literal[:MAX_SHOWN_CHARACTERS]
            told = f"{shown} is not finite; send a finite number or leave it out"
            raise JSONDecodeError(told, text, _place(shown, text))
        return found

    too_deep = f"it is nested deeper than {MAX_LEVELS} levels; make it flatter"
    try:
        value = json.loads(text, parse_float=number, parse_constant=number)
    except RecursionError as error:
        raise ValueError(too_deep) from error
    if text.count("[") + text.count("{") > MAX_LEVELS and _is_deeper(value, MAX_LEVELS):
        raise ValueError(too_deep)
    if (r"\ud" in text or r"\uD" in text) and (half := LONE_SURROGATE.search(_plain(text))):
        told = "half a surrogate pair is no character; send both halves or leave it out"
        raise JSONDecodeError(told, text, half.start())
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


def _plain(text: str) -> str:
    """The same length, without escaped backslashes and quotation marks: those left are what they seem."""
    return text.replace(r"\\", "  ").replace(r"\"", "  ")


def _place(literal: str, text: str) -> int:
    """Where a number stands first, outside of strings."""
    parts = _plain(text).split('"')
    num_strings = next(i for i, outside in enumerate(parts[::2]) if literal in outside)
    before = '"'.join([*parts[: 2 * num_strings], ""])
    return len(before) + parts[2 * num_strings].index(literal)
