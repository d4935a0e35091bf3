"""The formulas of a scored answer, computed by hand."""

from __future__ import annotations

import pytest

from steer_server.frozen.scored_answer import changed_share
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
