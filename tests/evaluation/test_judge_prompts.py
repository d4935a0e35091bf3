from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from steer_server.errors import EvaluationError
from steer_server.evaluation.judge_prompts import prompts_for
from steer_server.evaluation.judges import Judge, read_judges
from steer_server.training.reward_data import assign_parts, read_rows
from steer_server.training.trained_on import TRAINED_ON, trained_on_text
from tests.evaluation.conftest import NUM_PROMPTS, JudgesPlace
from tests.support.adapters import list_text, random_adapter
from tests.support.survey_server import write_rows


def judge_of(place: JudgesPlace, name: str) -> Judge:
    (judge,) = read_judges(place.judges, (name,), place.base, place.shipped)
    return judge


def test_prompts_are_of_the_part_that_no_head_was_trained_on(place: JudgesPlace) -> None:
    rows = read_rows("choices", place.data / "votes.gz")
    parts = assign_parts(rows, {}, 0.2, 0.3, seed=1)
    found = prompts_for(judge_of(place, "polite"), place.data, place.shipped, 0, seed=5)
    assert {text for ((_, text),) in found.prompts} == {u for u, part in parts.items() if part == "test"}
    assert found.num_found == NUM_PROMPTS and len(found.prompts) == 8 == NUM_PROMPTS - found.num_left_out


def test_instructions_that_something_was_trained_on_are_left_out_however_they_are_written(
    place: JudgesPlace,
) -> None:
    found = prompts_for(judge_of(place, "helpful"), place.data, place.shipped, 0, seed=5)
    texts = {text for ((_, text),) in found.prompts}
    test_part = {
        text
        for ((_, text),) in prompts_for(judge_of(place, "polite"), place.data, place.shipped, 0, 5).prompts
    }
    assert {text for text in texts if text.startswith("ask")} == test_part
    assert len([text for text in texts if text.startswith("Tell me")]) == NUM_PROMPTS
    assert found.num_left_out == 2 * (NUM_PROMPTS - len(test_part))


def test_what_was_trained_on_is_left_out_of_other_data_too(place: JudgesPlace, tmp_path: Path) -> None:
    """Rows that training never saw, and copies of some that it saw: other ranks, the same prompts."""
    judge = judge_of(place, "polite")
    trained = read_rows("choices", place.data / "votes.gz")
    parts = assign_parts(trained, {}, 0.2, 0.3, seed=1)
    copies = {unit.upper() + "?": part for unit, part in parts.items()}
    prompts = [*copies, *(f"new {n}" for n in range(60))]
    write_rows(tmp_path / "votes.gz", ({"prompt": p, "chosen": "yes", "rejected": "no"} for p in prompts))
    found = prompts_for(judge, tmp_path, place.shipped, 0, seed=5)
    unseen = {unit for unit, part in copies.items() if part == "test"}
    assert {text for ((_, text),) in found.prompts} == unseen | {f"new {n}" for n in range(60)}
    assert (found.num_found, found.num_left_out) == (100, 32)


def test_what_an_adapter_beside_the_heads_was_trained_on_is_left_out_too(
    place: JudgesPlace, tmp_path: Path
) -> None:
    shipped = Path(shutil.copytree(place.shipped, tmp_path / "adapters"))
    judge = judge_of(place, "polite")
    every = prompts_for(judge, place.data, shipped, 0, seed=5)
    random_adapter(shipped, "values", place.base, axes=["polite"])
    assert prompts_for(judge, place.data, shipped, 0, seed=5) == every, "it does not say"
    seen = [text for ((_, text),) in every.prompts[:3]]
    list_text(shipped / "values", TRAINED_ON, trained_on_text([*seen, "something else"]))
    assert prompts_for(judge, place.data, shipped, 0, seed=5).prompts == every.prompts[3:]

    (shipped / "values" / TRAINED_ON).write_text("# whatever\nask 1\n")
    with pytest.raises(EvaluationError, match=r"values/trained_on\.txt is not a comment and lines of 16"):
        prompts_for(judge, place.data, shipped, 0, seed=5)


def test_no_prompt_left_is_an_error(place: JudgesPlace, tmp_path: Path) -> None:
    prompts = {row.unit for row in read_rows("choices", place.data / "votes.gz")}
    random_adapter(tmp_path, "values", place.base, axes=["polite"])
    list_text(tmp_path / "values", TRAINED_ON, trained_on_text(prompts))
    with pytest.raises(EvaluationError, match="no prompt of votes is left"):
        prompts_for(judge_of(place, "polite"), place.data, tmp_path, 0, seed=5)


def test_a_limit_takes_the_first_of_an_order_that_follows_from_the_seed(place: JudgesPlace) -> None:
    judge = judge_of(place, "helpful")
    every, few = (prompts_for(judge, place.data, place.shipped, limit, seed=5) for limit in (0, 7))
    assert few.prompts == every.prompts[:7]
    assert prompts_for(judge, place.data, place.shipped, 7, seed=6).prompts != few.prompts


def test_missing_data_is_an_error_that_names_the_file(place: JudgesPlace, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"votes\.gz"):
        prompts_for(judge_of(place, "polite"), tmp_path, place.shipped, 0, seed=5)
    with pytest.raises(EvaluationError, match=r"alpaca_eval_prompts\.jsonl\.gz"):
        prompts_for(judge_of(place, "helpful"), tmp_path, place.shipped, 0, seed=5)
