from __future__ import annotations

from steer_server.training.preference_baselines import baselines, baselines_by_fold
from steer_server.training.preference_data import PreferencePair


def pair(prompt: str, chosen: str, rejected: str) -> PreferencePair:
    return PreferencePair(prompt, "s", (("user", prompt),), chosen, rejected, 1.0)


def personas(start: int, end: int) -> list[PreferencePair]:
    """Yes to calm statements, no to wild ones: neither the answer nor the statement alone says it."""
    return [
        pair(f"Is it calm {n}?", "Yes", "No") if n % 2 else pair(f"Is it wild {n}?", "No", "Yes")
        for n in range(start, end)
    ]


def test_longer_and_shorter_are_shares_and_ties_count_half() -> None:
    pairs = [pair("a", "long", "s"), pair("b", "long", "s"), pair("c", "s", "long"), pair("d", "x", "y")]
    found = baselines(pairs, pairs)
    assert (found["longer"], found["shorter"]) == (0.625, 0.375)


def test_the_bag_of_words_learns_which_statements_are_answered_how() -> None:
    found = baselines(personas(100, 120), personas(0, 60))
    assert found == {"longer": 0.5, "shorter": 0.5, "bag_of_words": 1.0}


def test_a_bag_of_words_that_knows_nothing_is_right_half_the_time() -> None:
    strange = [pair(f"q{n}", f"a{n}", f"b{n}") for n in range(20)]
    assert baselines(strange, personas(0, 60))["bag_of_words"] == 0.5


def test_without_pairs_set_apart_words_are_learnt_on_the_other_folds() -> None:
    pairs = personas(0, 100)
    assert baselines_by_fold(pairs[:40], pairs, 0.2, seed=1)["bag_of_words"] == 1.0
    strange = [pair(f"q{n}", f"a{n}", f"b{n}") for n in range(100)]
    found = baselines_by_fold(strange, strange, 0.2, seed=1)
    assert abs(found["bag_of_words"] - 0.5) < 0.1, "a pair does not teach itself"
