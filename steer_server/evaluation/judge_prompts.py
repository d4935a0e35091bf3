"""Prompts that fit a judge and that nothing was trained on: neither the judge, nor heads, axes or prompters.

helpful       instructions of AlpacaEval; 91 of the 119 prompts of PandaLM's test set are among them, so what
              was trained on is left out by its words
other judges  prompts of the judge's own sources that lie in the test part of its draw

What value axes and prompters were trained on follows from the recipes beside the shipped adapters. Not
covered: the pairs that a value axis and a judge have both learnt from. The axes' split is another draw than
the heads', so an axis may have learnt from the same people's choices as its judge, on prompts that are not
asked here.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from steer_server.errors import EvaluationError, TrainingError
from steer_server.evaluation.judges import RECIPE, Judge
from steer_server.training.align_pro_data import read_align_pro_data, same_prompt
from steer_server.training.align_pro_recipe import AlignProRecipe
from steer_server.training.panacea_recipe import PanaceaRecipe
from steer_server.training.preference_data import axis_split
from steer_server.training.reward_data import Row, assign_parts, read_rows

INSTRUCTION_FILES = {"helpful": "alpaca_eval_prompts.jsonl.gz"}
"""By judge: JSON lines with `instruction`, in place of the judge's own test part."""

Messages = tuple[tuple[str, str], ...]
"""(role, content) of what comes before the answer; the last is the user's."""


@dataclass(frozen=True)
class JudgePrompts:
    """What the answers that a judge compares are answers to."""

    prompts: tuple[Messages, ...]
    source: str
    """What they are, for the report."""
    num_found: int
    """Prompts before those below were left out and before the limit."""
    num_left_out: int
    """Prompts that something was trained on."""

    def describe(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "asked": len(self.prompts),
            "in_source": self.num_found,
            "left_out_as_trained_on": self.num_left_out,
        }


def prompts_for(judge: Judge, data: Path, shipped: Path, limit: int, seed: int) -> JudgePrompts:
    """At most `limit` prompts (0: all), in an order that follows from the seed, one per unit of the data.

    Args:
        data: directory of the recipes' data files.
        shipped: directory of the adapters that steer.

    Raises: EvaluationError when a file cannot be read or no prompt is left.
    """
    try:
        parts, rows = _parts(judge, data)
        seen = {unit for unit, part in parts.items() if part != "test"} | trained_units(shipped, data)
    except TrainingError as error:
        raise EvaluationError(f"judge {judge.name}: {error}") from error
    if judge.name in INSTRUCTION_FILES:
        source = INSTRUCTION_FILES[judge.name]
        found: dict[str, Messages] = {text: (("user", text),) for text in _instructions(data / source)}
    else:
        source = f"test part of {', '.join(judge.recipe['head']['sources'])}"
        found = {row.unit: row.messages for row in reversed(rows) if parts[row.unit] == "test"}
    seen_words = set(map(same_prompt, seen))
    kept = [unit for unit in _shuffled(found, seed) if same_prompt(unit) not in seen_words]
    if not kept:
        raise EvaluationError(f"judge {judge.name}: no prompt of {source} is left that was not trained on")
    chosen = kept[:limit] if limit else kept
    return JudgePrompts(
        tuple(found[unit] for unit in chosen), source, len(found), num_left_out=len(found) - len(kept)
    )


def trained_units(shipped: Path, data: Path) -> set[str]:
    """Prompts that the shipped value axes and prompters were trained on.

    Raises: EvaluationError for a recipe that cannot be read, TrainingError for its data.
    """
    units: set[str] = set()
    for path in sorted(shipped.glob(f"*/{RECIPE}")):
        document = json.loads(path.read_text(encoding="utf-8"))
        # A pareto-expert was not trained itself; it says what its anchors were trained with.
        for part in (document, *document.get("anchors", [])):
            written = part.get("recipe")
            if not isinstance(written, dict):
                continue
            try:
                if "axes" in written:
                    units |= _of_axes(PanaceaRecipe.model_validate(written), data)
                elif "warm_start" in written:
                    units |= _of_prompter(AlignProRecipe.model_validate(written), data)
            except ValidationError as error:
                raise EvaluationError(
                    f"{path.parent.name}/{RECIPE} does not say what it was trained on: {error}"
                ) from error
    return units


def _of_axes(recipe: PanaceaRecipe, data: Path) -> set[str]:
    return {pair.unit for axis in recipe.axes for pair in axis_split(recipe, axis.axis, data)[0]}


def _of_prompter(recipe: AlignProRecipe, data: Path) -> set[str]:
    parts = read_align_pro_data(recipe, data)
    return {*parts.prompts, *(pair.prompt for pair in parts.pairs)}


def _parts(judge: Judge, data: Path) -> tuple[dict[str, str], list[Row]]:
    """The part of each unit of the judge's sources, drawn as training drew it, and their rows."""
    recipe = judge.recipe
    rows = [
        row
        for name in recipe["head"]["sources"]
        for source in (recipe["sources"][name],)
        for row in read_rows(source["reader"], data / source["file"])
    ]
    defaults = recipe["defaults"]
    parts = assign_parts(
        rows,
        recipe["groups_by_head_of_the_pool"],
        defaults["test_share"],
        defaults["judge_share"],
        defaults["seed"],
    )
    return {unit: str(part) for unit, part in parts.items()}, rows


def _instructions(path: Path) -> list[str]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return [str(json.loads(line)["instruction"]) for line in lines]
    except (OSError, ValueError, KeyError) as error:
        raise EvaluationError(f"cannot read instructions from {path.name}: {error!r}") from error


def _shuffled(units: Iterable[str], seed: int) -> list[str]:
    """By hash, so that a prompt more or less changes nothing about the others."""
    return sorted(units, key=lambda unit: hashlib.sha256(f"{seed}:{unit}".encode()).digest())
