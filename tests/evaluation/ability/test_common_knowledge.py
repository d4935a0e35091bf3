from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from steer_server.evaluation.ability.common_knowledge import CHANCE, QUESTIONS


def test_there_are_sixty_different_questions_of_several_topics() -> None:
    assert len({question.text for question in QUESTIONS}) == len(QUESTIONS) == 60
    assert min(Counter(question.topic for question in QUESTIONS).values()) >= 6


def test_each_has_four_different_options_so_chance_is_a_quarter() -> None:
    for question in QUESTIONS:
        assert len({option.casefold() for option in question.options}) == 4 == 1 / CHANCE, question.text
        assert question.options[0] == question.right
        assert not [option for option in question.options if option.endswith(".")], question.text


@pytest.mark.parametrize("extreme", [max, min])
def test_always_the_longest_or_always_the_shortest_option_is_hardly_better_than_chance(
    extreme: Callable[[list[int]], int],
) -> None:
    hits = 0.0
    for question in QUESTIONS:
        lengths = [len(option) for option in question.options]
        picked = [i for i, length in enumerate(lengths) if length == extreme(lengths)]
        hits += (0 in picked) / len(picked)
    assert hits / len(QUESTIONS) < CHANCE + 0.1
