from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from steer_server.errors import TrainingError
from steer_server.training.align_pro_data import (
    RewritePair,
    drawn,
    held_out_prompts,
    read_align_pro_data,
    same_prompt,
)
from steer_server.training.align_pro_recipe import AlignProRecipe

RECIPE = """
name: rewriter
prompter: better
heads: {helpful: 1.0}
warm_start: {held_out_share: 0.25}
held_out_share: 0.5
pairs:
  - {file: pairs.jsonl, reader: rewrites, source: made-up rewrites, licence: none}
prompts:
  - {file: prompts.jsonl, reader: instructions, source: made-up prompts, licence: none}
  - {file: known.jsonl, reader: judgements, source: known to the head, licence: none, training_only: true}
"""


def recipe_with(text: str = RECIPE, **changes: object) -> AlignProRecipe:
    return AlignProRecipe.model_validate(yaml.safe_load(text) | changes)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """40 pairs; 60 prompts, of which ten are the pairs' and ten the head's, in other writing."""
    rows: dict[str, list[dict]] = {
        "pairs": [{"final_input": f"Ask {i}", "final_output": f"Please ask {i}"} for i in range(40)],
        "prompts": [{"instruction": f"ask {i}!", "reference": "x"} for i in range(30, 80)],
        "known": [{"prompt": f"ASK  {i}", "answer": "x", "label": 1} for i in range(70, 90)],
    }
    for name, records in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return tmp_path


def test_no_held_out_prompt_is_in_a_stage_or_known_to_the_head_whatever_its_writing(data: Path) -> None:
    found = read_align_pro_data(recipe_with(), data)
    held_out = set(map(same_prompt, found.held_out))
    assert 10 < len(held_out) < 35
    trained = {*found.prompts, *(p.prompt for p in (*found.pairs, *found.held_out_pairs))}
    assert not held_out & set(map(same_prompt, trained))
    assert not held_out & {f"ask {i}" for i in (*range(40), *range(70, 90))}
    assert held_out | set(map(same_prompt, found.prompts)) == {f"ask {i}" for i in range(30, 90)}
    assert held_out_prompts(recipe_with(), data) == found.held_out


def test_pairs_are_split_by_prompt(data: Path) -> None:
    found = read_align_pro_data(recipe_with(), data)
    assert RewritePair("Ask 0", "Please ask 0") in (*found.pairs, *found.held_out_pairs)
    assert len(found.pairs) + len(found.held_out_pairs) == 40 and 3 < len(found.held_out_pairs) < 20
    assert not set(found.pairs) & set(found.held_out_pairs)


def test_what_is_held_out_follows_from_the_seed_and_not_from_other_prompts(data: Path) -> None:
    before = held_out_prompts(recipe_with(), data)
    assert held_out_prompts(recipe_with(seed=1), data) != before
    lines = (data / "prompts.jsonl").read_text().splitlines(keepends=True)
    (data / "prompts.jsonl").write_text("".join(lines[::-2]))
    after = held_out_prompts(recipe_with(), data)
    assert set(after) < set(before)


def test_a_rewrite_that_people_do_not_accept_is_no_pair(data: Path) -> None:
    rows = [{"prompt": f"Do {i}", "answer": f"Do {i} now", "label": i % 2} for i in range(20)]
    (data / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"file": "own.jsonl", "reader": "judgements", "source": "own", "licence": "own"}
    found = read_align_pro_data(recipe_with(pairs=[source]), data)
    assert {p.prompt for p in (*found.pairs, *found.held_out_pairs)} == {f"Do {i}" for i in range(1, 20, 2)}


def test_data_of_which_nothing_can_be_held_out_is_refused(data: Path) -> None:
    source = {"file": "pairs.jsonl", "reader": "rewrites", "source": "", "licence": ""}
    with pytest.raises(TrainingError, match="0 prompts held out"):
        read_align_pro_data(recipe_with(prompts=[source]), data)
    with pytest.raises(TrainingError, match="cannot read"):
        read_align_pro_data(recipe_with(pairs=[{**source, "file": "none.jsonl"}]), data)


def test_every_item_is_drawn_once_before_any_is_drawn_again() -> None:
    items = list("abcdefg")
    steps = [drawn(items, 3, step, seed=1) for step in range(7)]
    flat = [item for step in steps for item in step]
    for time_round in range(3):
        assert sorted(flat[time_round * 7 : (time_round + 1) * 7]) == items
    assert flat[:7] != flat[7:14]
    assert drawn(items, 3, 5, seed=1) == steps[5] and drawn(items, 3, 5, seed=2) != steps[5]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"polcy": {}}, "polcy"),
        ({"policy": {"group_size": 1}}, "policy.group_size"),
        ({"policy": {"betta": 1}}, "policy.betta"),
        ({"policy": {"beta": -0.1}}, "policy.beta"),
        ({"policy": {"failure_reward": 1.5}}, "policy.failure_reward"),
        ({"rewriting": {"temperature": 0}}, "rewriting.temperature"),
        ({"rewriting": {"max_prompt_tokens": 9}}, "rewriting.max_prompt_tokens"),
        ({"warm_start": {"num_steps": 0}}, "warm_start.num_steps"),
        ({"heads": {"Helpful!": 1}}, "heads.Helpful!"),
        ({"heads": {"helpful": 0}}, "heads: at least one needs a weight"),
        ({"pairs": []}, "pairs"),
        ({"prompts": [{"file": "x", "reader": "y", "source": "z"}]}, "prompts.0.licence"),
        ({"held_out_share": 0}, "held_out_share"),
    ],
)
def test_a_bad_field_is_refused_by_name(tmp_path: Path, change: dict, named: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(RECIPE) | change))
    with pytest.raises(TrainingError, match=named):
        AlignProRecipe.read(path)


def test_some_prompts_must_be_such_as_can_be_held_out(tmp_path: Path) -> None:
    document = yaml.safe_load(RECIPE)
    document["prompts"] = document["prompts"][1:]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(TrainingError, match="training_only"):
        AlignProRecipe.read(tmp_path / "recipe.yaml")


def test_the_reward_is_the_weighted_mean_of_calibrated_scores() -> None:
    """r = Σ_h w_h c_h / Σ_h w_h."""
    recipe = recipe_with(heads={"helpful": 2, "harmless": 1, "shown": 0})
    assert recipe.reward({"helpful": 0.9, "harmless": 0.3, "shown": 1.0}) == pytest.approx(0.7)
    assert recipe.aim == "reward heads, by weight: helpful 2, harmless 1"
