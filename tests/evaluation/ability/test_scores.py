from __future__ import annotations

import math

import numpy as np
import pytest

from steer_server.errors import EvaluationError
from steer_server.evaluation.ability.common_knowledge import QUESTIONS
from steer_server.evaluation.ability.scores import TextScore, perplexity, score
from steer_server.evaluation.answers import Answer


def answer(*shares: float) -> Answer:
    return Answer(np.array([shares]), 1.0)


RIGHT, WRONG, TIE = answer(0.7, 0.1, 0.1, 0.1), answer(0.1, 0.7, 0.1, 0.1), answer(0.4, 0.4, 0.1, 0.1)


def test_perplexity_is_over_all_tokens_together_and_not_a_mean_of_texts() -> None:
    scores = [TextScore(-2.0, 4), TextScore(-30.0, 10)]
    assert perplexity(scores) == pytest.approx(math.exp(32 / 14))
    assert perplexity([TextScore(0.0, 3)]) == 1


def test_ratio_accuracy_and_difference_are_paired_with_the_base() -> None:
    texts = {
        "base": {0: TextScore(-10, 10), 1: TextScore(-10, 5)},
        "odd": {0: TextScore(-20, 10), 1: TextScore(-20, 5), 2: TextScore(-1, 1)},
    }
    answers = {"base": {0: RIGHT, 1: RIGHT, 2: WRONG}, "odd": {0: RIGHT, 1: WRONG, 2: TIE}}
    results = score(["base", "odd"], QUESTIONS, texts, {"words": answers}, num_passages=3, seed=1)
    odd = results["rows"]["odd"]
    assert odd["text"]["perplexity"] == pytest.approx(math.exp(40 / 15), abs=1e-3)
    assert odd["text"]["ratio_to_base"] == pytest.approx(math.exp(20 / 15), abs=1e-4)
    assert odd["words"]["accuracy"] == pytest.approx(1 / 3, abs=1e-4), "a tie is not right"
    assert odd["words"]["difference_from_base"] == pytest.approx(-1 / 3, abs=1e-4)
    low, high = odd["words"]["difference_from_base_95"]
    assert low == -1 and high == 0
    assert results["rows"]["base"]["text"]["ratio_to_base_95"] == [1, 1]
    assert results["dropped"] == {"passages": 1, "words": len(QUESTIONS) - 3}
    assert results["worst"] == {
        "perplexity": {"setting": "odd", "ratio_to_base": odd["text"]["ratio_to_base"]},
        "words": {"setting": "odd", "accuracy": odd["words"]["accuracy"]},
    }


def test_accuracy_is_given_by_topic() -> None:
    first = {question.topic: i for i, question in reversed(list(enumerate(QUESTIONS)))}
    answers = {"base": {i: RIGHT if topic == "science" else WRONG for topic, i in first.items()}}
    results = score(["base"], QUESTIONS, {"base": {0: TextScore(-1, 1)}}, {"letters": answers}, 1, 1)
    by_topic = results["rows"]["base"]["letters"]["by_topic"]
    assert by_topic == {topic: float(topic == "science") for topic in first}
    assert results["worst"] == {} and "worst" not in results["headline"]


def test_nothing_that_all_settings_answered_is_an_error() -> None:
    texts = {"base": {0: TextScore(-1, 1)}, "odd": {1: TextScore(-1, 1)}}
    with pytest.raises(EvaluationError, match="passage: nothing was answered under every setting"):
        score(["base", "odd"], QUESTIONS, texts, {}, 2, 1)
