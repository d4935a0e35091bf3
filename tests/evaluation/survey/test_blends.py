"""Sweeps whose answers are made up: what counts as between, and as monotone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from steer_server.evaluation.answers import Answer, Key
from steer_server.evaluation.survey.blends import WEIGHTS, blend_name, score_blends
from steer_server.training.survey_data import SurveyQuestion

KEY: Key = ("Tea?", ("yes", "no"))
PAIR = ("amber", "blue")


def scored(yes_W: Sequence[float], people: float = 0.5) -> dict[str, Any]:
    """Of a sweep with these shares of yes."""
    answers = {
        blend_name(PAIR, weight): {KEY: Answer(np.array([[yes, 1 - yes]]), 1.0)}
        for weight, yes in zip(WEIGHTS, yes_W, strict=True)
    }
    rows = {"FRA": {KEY: SurveyQuestion("Q", *KEY, (people, 1 - people))}}
    return score_blends([PAIR], answers, rows, {"FRA": "amber"}, [KEY])


def shares(found: dict[str, Any]) -> tuple[float, float, float]:
    return found["between_share"], found["monotone_share"], found["people_between_share"]


def test_a_blend_that_goes_from_one_end_to_the_other_is_between_and_monotone() -> None:
    assert shares(scored([0.1, 0.3, 0.5, 0.7, 0.9], people=0.95)) == (1, 1, 1)


def test_cultures_that_answer_alike_are_neither_between_nor_monotone() -> None:
    found = scored([0.3] * 5)
    assert shares(found) == (0, 0, 0) and found["resolved_cases"] == 0


def test_a_blend_that_stays_at_an_end_is_not_between() -> None:
    """Up to the last weight it is the first end, and then at once the other."""
    found = scored([0.1, 0.1, 0.1, 0.1, 0.9])
    assert found["resolved_between_share"] == 0 and found["people_between_share"] == 0


@pytest.mark.parametrize("yes_W", [[0.1, 0.6, 0.3, 0.7, 0.9], [0.1, 0.02, 0.5, 0.7, 0.9]])
def test_a_step_back_is_not_monotone(yes_W: list[float]) -> None:
    assert scored(yes_W)["monotone_share"] < 1
