from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from steer_server.catalogue.manifest import RECIPE
from steer_server.errors import EvaluationError
from steer_server.evaluation.judges import Scorer, read_judges
from steer_server.training.hidden_states import HiddenStates
from steer_server.training.trained_on import read_trained_on
from tests.evaluation.conftest import JudgesPlace
from tests.support.heads import random_head


def test_all_heads_that_compare_answers_are_judges_unless_named(place: JudgesPlace) -> None:
    found = read_judges(place.judges, (), place.base, place.shipped)
    assert [judge.name for judge in found] == ["helpful", "polite"]
    (only,) = read_judges(place.judges, ("polite",), place.base, place.shipped)
    assert only.name == "polite"
    with pytest.raises(EvaluationError, match="no judge plite"):
        read_judges(place.judges, ("plite",), place.base, place.shipped)
    with pytest.raises(EvaluationError, match="custom: learnt from judgements of single texts"):
        read_judges(place.judges, ("custom",), place.base, place.shipped)


def test_what_a_judge_is_worth_stands_beside_it(place: JudgesPlace) -> None:
    (judge,) = read_judges(place.judges, ("polite",), place.base, place.shipped)
    config = json.loads((place.judges / "judge-polite" / "reward_head.json").read_text())
    described = judge.describe()
    assert described["split"] == "judge" and described["label_meaning"] == "it is politer"
    for part in ("cross_validated", "test"):
        for key in ("rows", "accuracy", "length"):
            assert described["own_pairs"][part][key] == config["metrics"][part][key]


def test_a_judge_of_the_split_that_steers_is_refused(place: JudgesPlace, tmp_path: Path) -> None:
    for shipped in (place.shipped, tmp_path):
        with pytest.raises(EvaluationError, match=r"judge helpful is of split 'steer'.*--split judge"):
            read_judges(place.shipped, ("helpful",), place.base, shipped)


def test_a_judge_that_shares_prompts_with_a_head_that_steers_is_refused(
    place: JudgesPlace, tmp_path: Path
) -> None:
    other = place.train(tmp_path / "other", "judge", seed=2, only=("helpful",))
    (judge,) = read_judges(other, (), place.base, tmp_path)
    assert judge.trained_on is not None
    num_shared = len(judge.trained_on & (read_trained_on(place.shipped / "head-helpful") or set()))
    assert num_shared > 0
    with pytest.raises(EvaluationError, match=f"which steers, were trained on {num_shared} prompts"):
        read_judges(other, (), place.base, place.shipped)


def test_a_judge_and_a_head_of_other_names_may_not_share_prompts_either(
    place: JudgesPlace, tmp_path: Path
) -> None:
    heads = Path(shutil.copytree(place.shipped / "head-polite", tmp_path / "heads" / "head-polite")).parent
    other = place.train(tmp_path / "other", "judge", seed=2, only=("helpful",))
    with pytest.raises(EvaluationError, match="judge helpful and head-polite, which steers"):
        read_judges(other, (), place.base, heads)


def test_a_head_that_does_not_say_what_it_was_trained_on_refuses_no_judge(
    place: JudgesPlace, tmp_path: Path
) -> None:
    random_head(tmp_path, "head-helpful", place.base)
    assert len(read_judges(place.judges, (), place.base, tmp_path)) == 2


def test_a_recipe_that_disagrees_or_a_broken_folder_is_refused(
    place: JudgesPlace, fresh_judges: Path
) -> None:
    path = fresh_judges / "judge-polite" / RECIPE
    recipe = json.loads(path.read_text())
    path.write_text(json.dumps({**recipe, "split": "steer"}))
    with pytest.raises(EvaluationError, match="says split 'steer', its config 'judge'"):
        read_judges(fresh_judges, ("polite",), place.base, place.shipped)
    path.unlink()
    with pytest.raises(EvaluationError, match="judge-polite cannot be a judge"):
        read_judges(fresh_judges, ("polite",), place.base, place.shipped)


def test_an_empty_directory_has_no_judge(place: JudgesPlace, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="train reward-head --split judge"):
        read_judges(tmp_path, (), place.base, place.shipped)


def test_a_score_is_the_heads_on_the_texts_last_hidden_state(place: JudgesPlace, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    (judge,) = read_judges(place.judges, ("polite",), place.base, place.shipped)
    messages = [{"role": "user", "content": "tea?"}]
    texts = [(messages, "yes please"), (messages, "no"), (messages, "yes please")]
    scores = Scorer(place.base, tmp_path).scores(judge, texts)
    ids = AutoTokenizer.from_pretrained(place.base.path).encode("tea?yes please", add_special_tokens=False)
    (state,) = HiddenStates(place.base.path, tmp_path / "other").of([ids])
    head = load_file(place.judges / "judge-polite" / "reward_head.safetensors")
    assert scores[0] == pytest.approx(float(state @ head["weight"] + head["bias"][0]), rel=1e-3, abs=1e-4)
    assert scores[0] == scores[2] != scores[1] and scores.dtype == np.float64


def test_an_answer_without_text_is_scored_as_what_heads_are_sent(place: JudgesPlace, tmp_path: Path) -> None:
    (judge,) = read_judges(place.judges, ("polite",), place.base, place.shipped)
    messages = [{"role": "user", "content": "tea?"}]
    scores = Scorer(place.base, tmp_path).scores(judge, [(messages, text) for text in ("", "\n", " ", "no")])
    assert scores[0] == scores[1] == scores[2] != scores[3]
