"""The recipe file of `train culture`: everything that decides the result, besides the data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from steer_server.catalogue.manifest import NAME_PATTERN, DataSource
from steer_server.errors import TrainingError
from steer_server.training.survey_data import SurveyQuestion

MODES = ("survey", SELF := "self")
START = "start"
ALL = "all"


@dataclass(frozen=True)
class CultureRecipe:
    """Everything that decides the result, besides the data."""

    culture: str
    countries: tuple[str, ...]
    """ISO 3166 alpha-3 as in the survey, or `all`. Each counts the same."""
    description: str = ""
    mode: str = "survey"
    place: str = ""
    """Mode `self`: the culture's people as a prompt names them, such as `Brazil and Mexico`."""
    num_questions: int = 400
    """Mode `self`: generated questions that are asked."""
    rank: int = 4
    alpha: int = 8
    learning_rate: float = 1e-3
    num_steps: int = 60
    batch_size: int = 16
    letters_share: float = 0.4
    """Share of the questions that are asked by letter; the others are answered in words."""
    closeness_weight: float = 1.0
    """Weight of KL(base ‖ adapter) on ordinary prompts, which keeps all else as it was."""
    closeness_batch: int = 2
    closeness_every: int = 3
    """Steps from one look at ordinary prompts to the next; each then counts so many times."""
    held_out_share: float = 0.2
    seed: int = 20261121


@dataclass(frozen=True)
class RecipeFile:
    """A checked recipe file: what all start from, if anything, the cultures, and where the data is from."""

    start: CultureRecipe | None
    cultures: tuple[CultureRecipe, ...]
    sources: tuple[DataSource, ...]
    licence: str

    @classmethod
    def read(cls, path: Path) -> RecipeFile:
        """Keys: `cultures` (a list), and optionally `defaults`, `start`, `sources`, `licence`.

        Raises: TrainingError for an unknown or missing key, or a start that would train on what a culture
        holds out.
        """
        try:
            document = yaml.safe_load(path.read_text())
            defaults = document.get("defaults", {})
            start = document.get("start")
            recipes = [
                _recipe(path.name, {**defaults, **entry})
                for entry in ([{"culture": START, **start}] if start else []) + document["cultures"]
            ]
            sources = tuple(DataSource.model_validate(source) for source in document.get("sources", ()))
        except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise TrainingError(f"{path}: not a recipe: {type(error).__name__} {error}") from error
        known = {"defaults", "start", "cultures", "sources", "licence"}
        if unknown := sorted(set(document) - known):
            raise TrainingError(f"{path.name}: unknown keys {unknown}; there are {sorted(known)}")
        first = recipes.pop(0) if start else None
        if first:
            _check_held_out(path.name, first, recipes)
        return cls(first, tuple(recipes), sources, document.get("licence", ""))

    @classmethod
    def of_survey(cls, survey: Mapping[str, Sequence[SurveyQuestion]], source: str) -> RecipeFile:
        """Without a file: every country or community of the survey is a culture, with the default settings.

        Raises: TrainingError for a community whose name cannot be a culture's.
        """
        cultures = []
        for community in sorted(survey):
            name = community.lower().replace(" ", "_")
            if not re.fullmatch(NAME_PATTERN, name):
                raise TrainingError(f"{community!r} cannot be a culture's name; use letters, digits, _ . -")
            cultures.append(
                CultureRecipe(name, (community,), description=f"Answers of {community} in {source}.")
            )
        return cls(None, tuple(cultures), (DataSource(source=source, licence="not stated"),), "")


def _check_held_out(file: str, start: CultureRecipe, cultures: Sequence[CultureRecipe]) -> None:
    """Raises: TrainingError for a culture that holds out other questions than what it starts from."""
    for recipe in cultures:
        if (recipe.seed, recipe.held_out_share) != (start.seed, start.held_out_share):
            raise TrainingError(
                f"{file}: {recipe.culture} holds out {recipe.held_out_share} by seed {recipe.seed}, but its "
                f"start {start.held_out_share} by seed {start.seed}, and so trains on what is held out; give "
                "both the same `held_out_share` and `seed`, such as in `defaults`"
            )


def _recipe(file: str, values: dict[str, Any]) -> CultureRecipe:
    if unknown := sorted(set(values) - set(CultureRecipe.__dataclass_fields__)):
        raise TrainingError(f"{file}: unknown keys {unknown}")
    if (mode := values.get("mode", "survey")) not in MODES:
        raise TrainingError(f"{file}: mode {mode!r}; there are {', '.join(MODES)}")
    if mode == SELF and not values.get("place"):
        raise TrainingError(f"{file}: {values['culture']} has mode {SELF} and no `place`")
    countries = values["countries"]
    return CultureRecipe(**{**values, "countries": (countries,) if countries == ALL else tuple(countries)})
