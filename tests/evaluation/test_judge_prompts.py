from __future__ import annotations

import json
from pathlib import Path

import pytest

from steer_server.errors import EvaluationError
from steer_server.evaluation.judge_prompts import prompts_for, trained_units
from steer_server.evaluation.judges import RECIPE, Judge, read_judges
from steer_server.training.align_pro_data import read_align_pro_data
from steer_server.training.align_pro_recipe import AlignProRecipe
from steer_server.training.panacea_recipe import PanaceaRecipe
from steer_server.training.preference_data import axis_split
from steer_server.training.reward_data import assign_parts, read_rows
from tests.evaluation.conftest import NUM_PROMPTS, JudgesPlace

AXES = {
    "name": "values",
    "sources": {"votes": {"file": "votes.gz", "reader": "choices", "source": "s", "licence": "none"}},
    "axes": [{"axis": "helpful", "description": "", "sources": ["votes"]}],
}


def judge_of(place: JudgesPlace, name: str) -> Judge:
    (judge,) = read_judges(place.judges, (name,), place.base, place.shipped)
    return judge


def test_prompts_are_of_the_part_that_no_head_was_trained_on(place: JudgesPlace) -> None:
    rows = read_rows("choices", place.data / "votes.gz")
    parts = assign_parts(rows, {}, 0.2, 0.3, seed=1)
    found = prompts_for(judge_of(place, "polite"), place.data, place.shipped, 0, seed=5)
    assert {text for ((_, text),) in found.prompts} == {u for u, part in parts.items() if part == "test"}
    assert found.num_found == len(found.prompts) == 8 and found.num_left_out == 0


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


def test_what_value_axes_were_trained_on_is_left_out_too(place: JudgesPlace, tmp_path: Path) -> None:
    (tmp_path / "values").mkdir()
    (tmp_path / "values" / RECIPE).write_text(json.dumps({"recipe": AXES, "scores": {}}))
    training, _ = axis_split(PanaceaRecipe.model_validate(AXES), "helpful", place.data)
    assert trained_units(tmp_path, place.data) == {pair.unit for pair in training}
    anchors = [{"adapter": "kind@1.0.0", "recipe": AXES}, {"adapter": "safe@1.0.0", "recipe": None}]
    (tmp_path / "values" / RECIPE).write_text(json.dumps({"stacked": {"name": "x"}, "anchors": anchors}))
    assert trained_units(tmp_path, place.data) == {pair.unit for pair in training}
    judge = judge_of(place, "polite")
    every = prompts_for(judge, place.data, place.shipped, 0, seed=5)
    fewer = prompts_for(judge, place.data, tmp_path, 0, seed=5)
    assert 0 < len(fewer.prompts) < len(every.prompts)
    assert fewer.num_left_out == len(every.prompts) - len(fewer.prompts)
    assert not {text for ((_, text),) in fewer.prompts} & trained_units(tmp_path, place.data)

    (tmp_path / "values" / RECIPE).write_text(json.dumps({"recipe": {**AXES, "new_key": 1}}))
    with pytest.raises(EvaluationError, match=r"values/recipe\.json does not say what it was trained on"):
        prompts_for(judge, place.data, tmp_path, 0, seed=5)


def test_what_a_prompter_was_trained_on_is_left_out_too(tmp_path: Path) -> None:
    for name, key, count in (("pairs", "final_input", 10), ("prompts", "instruction", 60)):
        rows = [{key: f"{name} {i}", "final_output": "x", "reference": "x"} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"source": "made-up", "licence": "none"}
    recipe = AlignProRecipe(
        name="rewriter",
        prompter="better",
        heads={"helpful": 1.0},
        pairs=[{"file": "pairs.jsonl", "reader": "rewrites", **source}],
        prompts=[{"file": "prompts.jsonl", "reader": "instructions", **source}],
    )
    (tmp_path / "rewriter").mkdir()
    written = {"recipe": recipe.model_dump(mode="json"), "scores": {}}
    (tmp_path / "rewriter" / RECIPE).write_text(json.dumps(written))
    known = trained_units(tmp_path, tmp_path)
    parts = read_align_pro_data(recipe, tmp_path)
    assert known == {*parts.prompts, *(pair.prompt for pair in parts.pairs)}
    assert parts.held_out and not known & set(parts.held_out)


def test_a_limit_takes_the_first_of_an_order_that_follows_from_the_seed(place: JudgesPlace) -> None:
    judge = judge_of(place, "helpful")
    every, few = (prompts_for(judge, place.data, place.shipped, limit, seed=5) for limit in (0, 7))
    assert few.prompts == every.prompts[:7]
    assert prompts_for(judge, place.data, place.shipped, 7, seed=6).prompts != few.prompts


def test_missing_data_is_an_error_that_names_the_file(place: JudgesPlace, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"votes\.gz"):
        prompts_for(judge_of(place, "polite"), tmp_path, place.shipped, 0, seed=5)
    (tmp_path / "votes.gz").write_bytes((place.data / "votes.gz").read_bytes())
    with pytest.raises(EvaluationError, match=r"alpaca_eval_prompts\.jsonl\.gz"):
        prompts_for(judge_of(place, "helpful"), tmp_path, place.shipped, 0, seed=5)
