"""What is read as JSON, and that what is refused is refused by its place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer_server.strict_json import MAX_LEVELS, MAX_SEARCHED_CHARACTERS, JsonError, read_json

documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(documents, st.booleans(), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
def test_what_any_writer_writes_is_read_as_python_reads_it(document: Any, ascii: bool, encoding: str) -> None:
    text = json.dumps(document, ensure_ascii=ascii)
    assert read_json(text) == read_json(text.encode(encoding)) == document


@pytest.mark.parametrize(
    "text",
    [
        r'"\ud83d\ude00"',  # two halves that are one character
        r'"\uD83D\uDE00"',
        r'"\\ud800"',  # six characters
        r'"\\\\ud800 \"NaN 1e999 Infinity"',
        '{"NaN": 1e308, "1e999": -1.5, "[": "{"}',
        "[" * MAX_LEVELS + "]" * MAX_LEVELS,
        "[" + "[]," * 1000 + "[]]",
    ],
)
def test_what_only_looks_wrong_is_read(text: str) -> None:
    assert read_json(text) == json.loads(text)


WRONG = {
    "NaN": ('{"NaN": [1, NaN]}', "NaN.1", "has NaN; send a finite number"),
    "minus infinity": ('{"a": "-Infinity", "b": {"c": -Infinity}}', "b.c", "has -Infinity; send"),
    "a number that is too large": ('{"a": 1e999}', "a", "has 1e999; send a finite number or leave it out"),
    "the first half of a character": (r'{"a": "\\ud800", "b": "\ud800"}', "b", "half a surrogate pair"),
    "the second half alone": (r'["", {"a": "\uDE00"}]', "1.a", "half a surrogate pair"),
    "two first halves": (r'["\ud83d\ud83d\ude00"]', "0", "send both halves or leave it out"),
    "the halves in the wrong order": (r'["\ude00\ud83d"]', "0", "half a surrogate pair"),
    "a key of half a character": (r'{"a": {"\ud800": 1}}', "a.\ud800", "half a surrogate pair"),
    "a number that is all": ("NaN", None, "it has NaN"),
    "a value that another replaces": ('{"a": NaN, "a": 1}', None, "it has NaN"),
    "a text too long to search": (f'["{"x" * MAX_SEARCHED_CHARACTERS}", NaN]', None, "it has NaN"),
}


@pytest.mark.parametrize(("text", "place", "told"), WRONG.values(), ids=WRONG.keys())
def test_what_could_not_be_written_again_is_refused_by_its_place(
    text: str, place: str | None, told: str
) -> None:
    for given_as in (text, text.encode()):
        with pytest.raises(JsonError, match=told) as caught:
            read_json(given_as)
        assert caught.value.place == place and str(caught.value).startswith(f"`{place}`" if place else "it")


def test_half_a_surrogate_pair_as_bytes_is_refused() -> None:
    with pytest.raises(JsonError, match="position 1"):
        read_json(b'"\xed\xa0\x80"')


@pytest.mark.parametrize("num_levels", [MAX_LEVELS + 1, 100_000])
@pytest.mark.parametrize("level", ["[", '{"a":'])
def test_what_is_nested_too_deeply_is_refused(num_levels: int, level: str) -> None:
    text = level * num_levels + "1" + {"[": "]"}.get(level, "}") * num_levels
    with pytest.raises(JsonError, match="deeper than 200 levels"):
        read_json(text)


def test_a_long_number_is_not_repeated_whole() -> None:
    with pytest.raises(JsonError, match="has 1000") as caught:
        read_json(f"[1{'0' * 100_000}.0]")
    assert len(str(caught.value)) < 200
