"""Spans: where sentences end, what is fixed, and that nothing of a text is lost."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer_server.frozen.spans import ends_sentence, split

PIECES = [
    "Yes.",
    "no",
    " ",
    "\n",
    "\n\n",
    "- ",
    "1. ",
    "3.14",
    "Dr. Who",
    "```",
    "# Title",
    "| a |",
    "！",
    "“Go!”",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_nothing_of_a_text_is_lost(text: str) -> None:
    spans = split(text)
    if text.strip():
        assert "".join(span.lead + span.body for span in spans) == text
        assert [span.start for span in spans] == [0, *(span.end for span in spans[:-1])]
    else:
        assert spans == []


def bodies(text: str) -> list[str]:
    return [span.body for span in split(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is. Is it? It is!", ["It is.", "Is it?", "It is!"]),
        (
            "It costs 3.14 euros. Dr. Who pays, e.g. in cash.",
            ["It costs 3.14 euros.", "Dr. Who pays, e.g. in cash."],
        ),
        ("He said “Go!” and went.", ["He said “Go!”", "and went."]),
        ("今日は。元気？", ["今日は。", "元気？"]),
        ("First line\nsecond line", ["First line", "second line"]),
        ("Steps:\n1. Cut it. Dry it.\n2. Eat", ["Steps:", "Cut it.", "Dry it.", "Eat"]),
    ],
)
def test_a_span_is_a_sentence_or_a_line(text: str, expected: list[str]) -> None:
    assert bodies(text) == expected


def test_marks_of_lists_and_quotations_are_no_part_of_what_is_replaced() -> None:
    spans = split("So:\n\n- one\n- two\n> three")
    assert [(span.lead, span.body) for span in spans[1:]] == [
        ("\n\n- ", "one"),
        ("\n- ", "two"),
        ("\n> ", "three"),
    ]


def test_code_tables_and_headings_are_fixed() -> None:
    text = "Run this.\n```python\nprint(1). # no\n```\n# Why\n| a | b |\nBecause."
    fixed = {span.body: span.is_fixed for span in split(text)}
    assert fixed == {
        "Run this.": False,
        "```python\nprint(1). # no\n```": True,
        "# Why": True,
        "| a | b |": True,
        "Because.": False,
    }


def test_code_that_is_not_closed_goes_on_to_the_end() -> None:
    assert [span.is_fixed for span in split("See.\n```\na = 1. b")] == [False, True]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is. ", True),
        ("It is", False),
        ("Mr.", False),
        ("It takes (approx.", False),
        # No more than its end is looked at, and that does not begin a word.
        ("It is an unforgettableprof.", True),
        ("", False),
    ],
)
def test_the_end_of_a_sentence_is_known(text: str, expected: bool) -> None:
    assert ends_sentence(text) is expected


def test_a_text_of_abbreviations_takes_no_time_that_grows_with_its_square() -> None:
    before = time.process_time()
    (span,) = split("Mr. " * 50_000)
    assert span.end == 200_000 and time.process_time() - before < 5
