from __future__ import annotations

import pytest

from steer_server.frozen.wording import (
    asks,
    begins_like_an_answer,
    content_words,
    kept_words,
    num_negations,
    words,
)


def test_words_are_written_alike_and_scripts_without_spaces_are_taken_by_the_character() -> None:
    assert words("It’s ＯＮＥ, two_three!") == ["it's", "one", "two", "three"]
    assert words("东京 is nice") == ["东", "京", "is", "nice"]


def test_content_is_what_is_left_without_function_words_unless_nothing_is_left() -> None:
    assert content_words("How do I teach my children?") == {"teach", "children"}
    assert content_words("Who are you?") == {"who", "are", "you"}
    assert content_words("?!") == set()


def test_a_word_is_kept_in_other_forms_and_when_its_spelling_is_mended() -> None:
    assert kept_words({"teach", "captial", "frence"}, "Teaching: the capital of France") == {
        "teach",
        "captial",
        "frence",
    }
    assert kept_words({"lamb", "rain"}, "Lamp plains") == set()


@pytest.mark.parametrize(
    ("text", "num"),
    [
        ("Don't go, never, without me", 3),
        ("Avoid sugar, except on Sundays", 2),
        ("Knots and notes", 0),
        ("食べません", 1),
    ],
)
def test_negations_are_counted(text: str, num: int) -> None:
    assert num_negations(text) == num


@pytest.mark.parametrize(
    ("text", "is_request"),
    [
        ("What now", True),
        ("Tea. Explain it.", True),
        ("I'd like a poem", True),
        ("Really?", True),
        ("请坐", True),
        ("The cat explains it.", False),
        ("I like what you do.", False),
    ],
)
def test_requests_are_told_from_statements(text: str, is_request: bool) -> None:
    assert asks(text) is is_request


def test_courtesies_and_refusals_begin_answers() -> None:
    assert begins_like_an_answer("Here’s a poem") and begins_like_an_answer("I can't do that")
    assert not begins_like_an_answer("Hereford is where?") and not begins_like_an_answer("Nobody knows")
