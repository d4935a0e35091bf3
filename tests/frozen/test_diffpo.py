"""The loop, on a model whose every number is written down."""

from __future__ import annotations

import pytest

from steer_server.frozen.diffpo import Denoised, Search, denoise, spliced
from steer_server.frozen.gaps import Gap, first_conflicts, worst_spans
from steer_server.frozen.guard import Verdict
from steer_server.frozen.outcome import Outcome, Report
from tests.frozen.tables import Scores, TableModel, scored

SCORES: Scores = {
    "bad": (-3.0, -1.0),
    "evil": (-4.0, -1.0),
    "good": (1.0, -1.0),
    "best": (2.0, -1.0),
    "rare": (9.0, -9.0),
}


async def run(text: str, model: TableModel, max_loops: int = 6, max_gaps: int = 2) -> Denoised:
    return await denoise(scored(text, model.scores), model, Search(worst_spans, max_loops, max_gaps))


async def test_the_worst_sentence_becomes_the_best_candidate() -> None:
    model = TableModel(SCORES, lambda gap: ["a good day.", "a best day.", "a bad day."])
    found = await run("a fine day. a bad day.", model, max_loops=1, max_gaps=1)
    assert found.answer.text == "a fine day. a best day."
    assert found.answer.log_ratio > found.draft.log_ratio and found.num_accepted == 1
    assert Report.of(found).outcome is Outcome.IMPROVED


async def test_it_stops_when_nothing_changes() -> None:
    model = TableModel(SCORES, lambda gap: ["a best day.", "a best night."])
    found = await run("a bad day. a fine night.", model, max_gaps=1)
    assert found.answer.text == "a best day. a best night."
    # The third loop finds what is best already; nothing is drawn again after that.
    assert found.num_loops == 3 and model.rounds[-1] == ("score", 0)


async def test_loops_are_bounded() -> None:
    texts = iter(range(100))
    model = TableModel({}, lambda gap: [f"word{next(texts)} day."])
    model.scores = {f"word{i}": (i + 1.0, -1.0) for i in range(100)}
    found = await run("a bad day.", model, max_loops=4)
    assert found.num_loops == 4 and found.num_accepted == 4


async def test_candidates_are_scored_with_what_follows() -> None:
    """A sentence that is good by itself and makes the rest bad is not taken."""

    class Jealous(TableModel):
        async def score(self, answers, known=None):  # type: ignore[no-untyped-def]
            self.scores = {**SCORES, "rest.": (0.0, -1.0)}
            plain = await super().score(answers)
            self.scores = {**SCORES, "rest.": (-9.0, -1.0)}
            return [
                scored(one.text, self.scores) if "best" in one.text else one
                for one in plain
                if one is not None
            ]

    found = await run("a bad day. the rest.", Jealous(SCORES, lambda gap: ["a best day."]), max_gaps=1)
    assert not found.is_changed and found.verdicts == {Verdict.LOWER_RATIO: 1}


async def test_what_the_base_model_finds_unlikely_is_refused() -> None:
    found = await run("a bad day.", TableModel(SCORES, lambda gap: ["a rare day."]))
    assert found.answer is found.draft and found.verdicts == {Verdict.LESS_LIKELY: 1}
    assert Report.of(found).outcome is Outcome.LESS_LIKELY and Report.of(found).answer == "a bad day."


async def test_without_a_better_candidate_the_draft_is_given_back() -> None:
    found = await run("a good day.", TableModel(SCORES, lambda gap: ["a bad day.", "a good day."]))
    assert Report.of(found).outcome is Outcome.NO_BETTER_CANDIDATE
    assert found.num_loops == 1 and Report.of(found).changed_share == 0


async def test_two_places_are_bettered_in_one_loop() -> None:
    model = TableModel(SCORES, lambda gap: [f"a good {gap.removed.split()[-1]}"])
    found = await run("a bad day. a evil night.", model, max_loops=1)
    assert found.answer.text == "a good day. a good night." and found.num_accepted == 2
    assert model.rounds == [("draw", 2), ("score", 2), ("score", 1)]


async def test_a_sentence_that_is_there_already_is_no_candidate() -> None:
    found = await run("a best day. a bad day.", TableModel(SCORES, lambda gap: ["a best day."]))
    assert not found.is_changed and not found.verdicts
    found = await run("a bad day. a evil day.", TableModel(SCORES, lambda gap: ["a good day."]), max_loops=1)
    assert found.answer.text == "a bad day. a good day." and found.num_accepted == 1


async def test_two_pieces_that_do_not_go_together_are_not_taken_together() -> None:
    """Either is likely enough by itself; both are not."""
    scores: Scores = {**SCORES, "odd": (1.0, -1.3), "strange": (2.0, -1.3)}
    fillings = {"a bad day.": ["a odd day."], " a evil day.": ["a strange day."]}
    model = TableModel(scores, lambda gap: fillings[gap.removed])
    found = await run("a bad day. a evil day.", model, max_loops=1)
    assert found.answer.text == "a bad day. a strange day." and found.num_accepted == 1


async def test_what_was_tried_in_vain_is_not_tried_again() -> None:
    asked: list[str] = []

    def fillings(gap: Gap) -> list[str]:
        asked.append(gap.removed.strip())
        return ["a good day."] if "bad" in gap.removed else []

    await run("a bad day. a evil day. a dull day.", TableModel(SCORES, fillings))
    assert asked.count("a evil day.") == 1


async def test_answers_that_are_too_long_are_not_taken() -> None:
    model = TableModel(SCORES, lambda gap: ["a very very best day."], longest=3)
    assert not (await run("a bad day.", model)).is_changed


async def test_an_answer_of_code_alone_is_left_alone() -> None:
    found = await run("```\nbad\n```", TableModel(SCORES, lambda gap: ["good"]))
    assert found.num_loops == 0 and Report.of(found).outcome is Outcome.NOTHING_TO_CHANGE


async def test_a_conflict_is_drawn_anew_up_to_where_the_rest_joins() -> None:
    text = "we had a bad day then. it rained."
    model = TableModel(SCORES, lambda gap: [" good day."])
    found = await denoise(scored(text, SCORES), model, Search(first_conflicts, 6, 1))
    assert found.answer.text == "we had a good day. it rained."
    # No conflict is left, so no second loop begins.
    assert found.num_loops == 1


def test_pieces_are_put_in_wherever_they_stand() -> None:
    text = "one. two. three."
    first, last = Gap(text, 0, 4, "", 1), Gap(text, 9, 16, " ", 1)
    assert spliced(text, {first: "1st.", last: " 3rd."}) == "1st. two. 3rd."


async def test_the_report_has_the_numbers_of_both_answers() -> None:
    model = TableModel(SCORES, lambda gap: ["a good day."])
    described = Report.of(await run("a bad day.", model)).describe()
    assert described["outcome"] == "improved" and described["reason"] is None
    assert described["draft"] == "a bad day." and described["loops"] == 2
    assert described["draft_scores"] == {"log_likelihood": -1.0, "log_ratio": -1.0, "tokens": 3}
    assert described["answer_scores"]["log_ratio"] == pytest.approx(1 / 3, abs=1e-4)
    assert described["changed_share"] == pytest.approx(1 / 3, abs=1e-4)
    assert described["candidates"] == {"better": 1, "lower_ratio": 0, "less_likely": 0}
