"""The formulas of a scored answer, computed by hand."""

from __future__ import annotations

import time

import pytest

from steer_server.frozen.scored_answer import MAX_PAIRS, changed_share
from tests.frozen.tables import scored

ANSWER = scored("we all agree", {"we": (0.5, -1.0), "all": (-2.0, -3.0), "agree": (0.3, -0.5)})


def test_the_log_ratio_is_the_mean_difference() -> None:
    assert ANSWER.ratios == pytest.approx([0.5, -2.0, 0.3])
    assert ANSWER.log_ratio == pytest.approx((0.5 - 2.0 + 0.3) / 3)


def test_the_log_likelihood_is_the_base_models_mean() -> None:
    assert ANSWER.log_likelihood == pytest.approx(-4.5 / 3)


def test_tokens_belong_to_where_they_end() -> None:
    assert list(ANSWER.tokens_between(0, 2)) == [0]
    assert list(ANSWER.tokens_between(2, 12)) == [1, 2]
    assert list(ANSWER.tokens_between(0, 12)) == [0, 1, 2]


def test_the_changed_share_counts_what_is_in_no_common_block() -> None:
    assert changed_share([1, 2, 3, 4], [1, 2, 3, 4]) == 0
    assert changed_share([1, 2, 3, 4], [1, 9, 3, 4]) == pytest.approx(1 / 4)
    assert changed_share([1, 2], [1, 2, 3, 4]) == pytest.approx(1 / 2)
    assert changed_share([1, 2], [3]) == 1
    assert changed_share([1, 5, 6, 2, 9], [1, 7, 5, 6, 9]) == pytest.approx(1 / 5)


def test_in_a_text_that_repeats_itself_tokens_count_in_any_order() -> None:
    num = int(MAX_PAIRS**0.5) + 1
    before, after = [1, *[5] * num, 2, 8], [3, 2, *[5] * num, 8]
    assert changed_share(before, after) == pytest.approx(1 / (num + 3))


def test_a_long_text_that_repeats_itself_takes_no_time_to_compare() -> None:
    before = time.process_time()
    assert changed_share([5] * 8000, [5] * 4000 + [6] * 5 + [5] * 3995) == pytest.approx(5 / 8000)
    assert changed_share([1, *[5] * 8000, 2], [3, *[5] * 8000, 4]) == pytest.approx(2 / 8002)
    assert time.process_time() - before < 2
