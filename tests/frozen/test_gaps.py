"""Both ways to find what is drawn anew, on answers whose log-ratios are written down."""

from __future__ import annotations

import pytest

from steer_server.frozen.gaps import TOLERANCE, VARIANTS, FindGaps, Gap, first_conflicts, worst_spans
from tests.frozen.tables import Scores, scored

TEXT = "All are fine. None is bad here. Some may go."
SCORES: Scores = {
    "fine.": (0.6, -1.0),
    "is": (-1.0, -1.0),
    "bad": (-2.0, -1.0),
    "may": (-0.5, -1.0),
}


def removed(gaps: list[Gap]) -> list[str]:
    return [gap.removed for gap in gaps]


def test_the_worst_spans_have_the_lowest_mean_ratio() -> None:
    answer = scored(TEXT, SCORES)
    assert removed(worst_spans(answer, set(), 2)) == [" None is bad here.", " Some may go."]
    assert removed(worst_spans(answer, set(), 9))[-1] == "All are fine."


def test_a_sentence_is_drawn_behind_what_precedes_it_and_takes_its_place() -> None:
    (gap,) = worst_spans(scored(TEXT, SCORES), set(), 1)
    assert gap.kept == "All are fine." and gap.num_tokens == 4
    assert gap.piece(" No one. ") == " No one."


def test_a_list_keeps_its_marks() -> None:
    (gap, *_) = worst_spans(scored("So:\n- bad one\n- two", {"bad": (-2, -1)}), set(), 1)
    assert gap.kept == "So:\n-" and gap.removed == " bad one" and gap.piece(" good") == " good"


def test_a_paragraph_begins_with_no_space() -> None:
    (gap,) = worst_spans(scored("So.\n\nbad thing.", {"bad": (-2, -1)}), set(), 1)
    assert gap.kept == "So.\n\n" and gap.piece(" Good thing.") == "Good thing."


def test_a_conflict_begins_where_the_log_ratio_starts_to_fall() -> None:
    (gap,) = first_conflicts(scored(TEXT, SCORES), set(), 2)
    assert gap.kept == "All are fine. None" and gap.removed == " is bad here."
    assert gap.num_tokens == 3 and gap.piece(" was good. ") == " was good."


def test_a_conflict_at_the_first_word_takes_the_whole_sentence() -> None:
    (gap,) = first_conflicts(scored("- bad day. Yes.", {"bad": (-2.0, -1.0)}), set(), 1)
    assert gap.kept == "-" and gap.removed == " bad day." and gap.piece("good day.") == " good day."


def test_a_fall_within_the_tolerance_is_no_conflict() -> None:
    half = TOLERANCE / 2
    text = "so it is. it was."
    assert first_conflicts(scored(text, {"it": (-half, -1)}), set(), 9) == []
    below = {"it": (-half, -1.0), "was.": (-half - 0.01, -1.0)}
    assert removed(first_conflicts(scored(text, below), set(), 9)) == [" it was."]


def test_what_lies_above_makes_up_for_what_falls() -> None:
    scores = {"bad": (-1.0, -1.0), "good": (2.0, -1.0), "worse": (-1.0, -1.0)}
    assert first_conflicts(scored("so bad good worse.", scores), set(), 1) == []


def test_the_first_conflict_comes_first_however_bad_the_second_is() -> None:
    answer = scored("bad one. worst one.", {"bad": (-2, -1), "worst": (-9, -1)})
    assert removed(first_conflicts(answer, set(), 1)) == ["bad one."]
    assert removed(worst_spans(answer, set(), 1)) == [" worst one."]


@pytest.mark.parametrize("find", VARIANTS.values(), ids=VARIANTS)
def test_code_and_what_was_tried_in_vain_are_left_alone(find: FindGaps) -> None:
    answer = scored("bad.\n```\nbad\n```\nbad too.", {"bad": (-3, -1), "bad.": (-3, -1)})
    everything = find(answer, set(), 9)
    assert sorted(removed(everything)) == ["bad too.", "bad."]
    assert removed(find(answer, {"bad."}, 9)) == ["bad too."]


def test_both_ways_are_what_a_request_may_name() -> None:
    from steer_server.steering.denoising import VARIANTS as NAMED

    assert tuple(VARIANTS) == NAMED
