"""Which questions training saw: by the data that it used, and by what an adapter's recipe records of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from steer_server.catalogue.manifest import RECIPE
from steer_server.errors import EvaluationError, TrainingError
from steer_server.evaluation.client import Culture
from steer_server.evaluation.distributions import uniform_bits
from steer_server.training.culture_recipe import ALL
from steer_server.training.survey_data import SurveyQuestion, pool_countries, split_questions

Survey = dict[str, list[SurveyQuestion]]
"""Country -> its questions."""
Recipes = dict[str, dict[str, Any]]
"""Culture -> the `recipe.json` that `train culture` wrote."""


def read_recipes(folder: Path, cultures: Iterable[Culture]) -> Recipes:
    """Of the cultures whose adapter is in the folder and was made by `train culture`.

    Raises: EvaluationError for a recipe that cannot be read.
    """
    found = {}
    for culture in cultures:
        path = folder / culture.adapter.split("@")[0] / RECIPE
        try:
            recipe = json.loads(path.read_text())
            recorded = {"seed", "held_out_share", "countries", "scores"} <= recipe.keys()
        except FileNotFoundError:
            continue
        except (OSError, ValueError, AttributeError) as error:
            raise EvaluationError(f"cannot read {path}: {error}") from error
        if recorded and "uniform" in recipe["scores"]:
            found[culture.id] = recipe
    return found


def was_trained_on(recipe: Mapping[str, Any], survey: Survey) -> bool:
    """Whether a training was on this survey: to the questions that the recipe holds out in its countries,
    uniform answers score what the recipe recorded."""
    countries = sorted(survey) if recipe["countries"] == [ALL] else recipe["countries"]
    try:
        rows = pool_countries(survey, countries)
    except TrainingError:  # It lacks a country.
        return False
    _, held_out = split_questions(rows, recipe["held_out_share"], recipe["seed"])
    bits = uniform_bits([row.distribution for row in held_out]) if held_out else math.nan
    return math.isclose(bits, recipe["scores"]["uniform"], rel_tol=1e-9)


def check_split(recipes: Recipes, seed: int, held_out_share: float) -> None:
    """Raises: EvaluationError when a culture, or what it started from, held out other questions."""
    for culture, recipe in recipes.items():
        for part in (recipe, recipe.get("start") or recipe):
            if (part["seed"], part["held_out_share"]) != (seed, held_out_share):
                raise EvaluationError(
                    f"training of {culture} held out other questions; give --seed {part['seed']} "
                    f"--held-out-share {part['held_out_share']}, or --questions all"
                )


def trained_texts(survey: Survey, seed: int, held_out_share: float) -> set[str]:
    """Questions that training on the survey sees, in any country."""
    rows = [row for rows in survey.values() for row in rows]
    return {row.question for row in split_questions(rows, held_out_share, seed)[0]}
