"""`train culture` end to end on a model of two layers and a survey of a dozen questions."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.validation import validate_adapter
from steer_server.errors import TrainingError
from steer_server.evaluation.survey.trained import was_trained_on
from steer_server.settings import Settings
from steer_server.training.culture import data_fingerprint, train_cultures
from steer_server.training.culture_recipe import ALL, RecipeFile
from steer_server.training.survey_data import read_survey
from steer_server.training.trained_on import prompt_hash, read_trained_on
from tests.support.adapters import TINY
from tests.support.servers import ROOT
from tests.support.tiny_model import tiny_model_with_weights

pytestmark = [
    # PEFT's own imports warn.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

LONG = "Say hi" + " again" * 100
"""Longer than what training reads of an ordinary prompt."""
RECIPE = """
sources: [{source: made up, licence: none}]
licence: Apache-2.0
defaults: {rank: 2, alpha: 4, num_steps: 3, batch_size: 8}
start: {countries: all, num_steps: 2}
cultures:
  - {culture: tea_drinkers, countries: [AAA]}
  - {culture: coffee_drinkers, countries: [BBB]}
"""


def write_lines(path: Path, rows: list[dict]) -> Path:
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def test_trained_cultures_are_adapters_that_pass_validation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    survey = write_lines(
        tmp_path / "survey.gz",
        [
            {
                "country": country,
                "question_id": f"Q{i}",
                "question": f"Tea {i}?",
                "options": ["yes", "no"],
                "distribution": shares,
            }
            for country, shares in (("AAA", [0.9, 0.1]), ("BBB", [0.2, 0.8]))
            for i in range(12)
        ],
    )
    prompts = write_lines(tmp_path / "prompts.gz", [{"instruction": LONG, "reference": "hi"}] * 4)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    settings = Settings(model=str(tiny_model_with_weights(tmp_path / TINY)), cache=tmp_path / "cache")
    out = tmp_path / "out"
    train_cultures(recipe, survey, prompts, out, settings, only=["tea_drinkers"])
    adapter = validate_adapter(out / "tea_drinkers", BaseModel.of(settings), max_rank=8)
    assert adapter.manifest.culture is not None and adapter.manifest.culture.countries == ("AAA",)
    assert adapter.manifest.licence == "Apache-2.0" and adapter.manifest.data[0].source == "made up"
    start, scores = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert start["start"] == [ALL] and start["questions_trained"] == scores["questions_trained"]
    card = (out / "tea_drinkers" / "README.md").read_text()
    assert f"| words | {scores['base_words']:.3f} | {scores['adapter_words']:.3f} |" in card
    assert f"{scores['uniform']:.3f}" in card and "made up (none)" in card
    recipe_json = json.loads((out / "tea_drinkers" / "recipe.json").read_text())
    assert was_trained_on(recipe_json, read_survey(survey))
    known = read_trained_on(out / "tea_drinkers")
    assert known is not None and len(known) == scores["questions_trained"] + 1
    assert known <= {prompt_hash(text) for text in (LONG, *(f"Tea {i}?" for i in range(12)))}
    assert prompt_hash(LONG) in known, "whole, though training reads its beginning"

    train_cultures(recipe, survey, prompts, out, settings)
    printed = capsys.readouterr()
    assert "tea_drinkers: already" in printed.err
    (line,) = printed.out.splitlines()
    assert json.loads(line)["culture"] == "coffee_drinkers", "the common start is kept"
    assert not list((tmp_path / "cache").rglob("*.checkpoint"))

    with pytest.raises(TrainingError, match="tee_drinkers"):
        train_cultures(recipe, survey, prompts, out, settings, only=["tee_drinkers"])


def test_a_run_is_another_with_other_data(tmp_path: Path) -> None:
    """A checkpoint of a run on other questions without answers must not be gone on from."""
    files = {name: tmp_path / name for name in ("survey", "prompts", "questions", "others")}
    for name, path in files.items():
        path.write_text(name)
    survey, prompts, questions, others = files.values()
    same = data_fingerprint("m", survey, prompts, questions)
    others.write_text("questions")
    assert data_fingerprint("m", survey, prompts, others) == same
    others.write_text("others")
    found = [
        same,
        data_fingerprint("m", survey, prompts, others),
        data_fingerprint("m", survey, prompts, None),
        data_fingerprint("m", survey, None, questions),
        data_fingerprint("m", others, prompts, questions),
        data_fingerprint("n", survey, prompts, questions),
    ]
    assert len(set(found)) == len(found)


def test_without_a_recipe_every_community_of_a_csv_is_a_culture(tmp_path: Path) -> None:
    survey = tmp_path / "own.csv"
    lines = [f"Night Owls,Tea {i}?,{o},{n}\n" for i in range(12) for o, n in (("yes", 30), ("no", 10))]
    survey.write_text("country,question,option,share\n" + "".join(lines))
    file = RecipeFile.of_survey(read_survey(survey), survey.name)
    (recipe,) = file.cultures
    assert recipe.culture == "night_owls" and recipe.countries == ("Night Owls",)
    with pytest.raises(TrainingError, match="Owls!"):
        RecipeFile.of_survey({"Night Owls!": []}, "own.csv")


def test_the_shipped_recipes_can_be_read() -> None:
    file = RecipeFile.read(ROOT / "adapters" / "cultures.yaml")
    assert len({recipe.culture for recipe in file.cultures}) == len(file.cultures) >= 8
    assert file.start is not None and file.start.countries == (ALL,) and file.sources


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("defaults: {rnak: 4}\ncultures: [{culture: a, countries: [AAA]}]", "rnak"),
        ("cultures: [{culture: a}]", "countries"),
        ("default: {}\ncultures: [{culture: a, countries: [AAA]}]", "default"),
        ("cultures: [{culture: a, countries: [AAA], mode: guess}]", "guess"),
        ("cultures: [{culture: a, countries: [AAA], mode: self}]", "place"),
        (
            "start: {countries: all, seed: 2}\ncultures: [{culture: a, countries: [AAA]}]",
            "a holds out 0.2 by seed 20261121, but its start 0.2 by seed 2",
        ),
        (
            "defaults: {held_out_share: 0.3}\nstart: {countries: all}\n"
            "cultures: [{culture: a, countries: [AAA], held_out_share: 0.2}]",
            "a holds out 0.2 by seed 20261121, but its start 0.3",
        ),
        ("cultures: {", "not a recipe"),
        ("[]", "not a recipe"),
    ],
)
def test_a_bad_recipe_is_an_error_that_names_the_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(TrainingError, match=message):
        RecipeFile.read(path)
