"""Prompts that fit a judge and that nothing was trained on: neither the judge, nor what steers.

helpful       instructions of AlpacaEval; 91 of the 119 prompts of PandaLM's test set are among them
other judges  prompts of the files that its recipe names

Left out is what the judge's folder and those of the adapters that steer say they were trained on, by the
words of the prompts: `seen_prompts.py`. Not covered: prompts that a value axis and a judge have both learnt
from. The axes' split is another draw than the heads', so an axis may have learnt from the same people's
choices as its judge, on prompts that are not asked here.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steer_server.errors import EvaluationError, TrainingError
from steer_server.evaluation.judges import Judge
from steer_server.evaluation.seen_prompts import seen_hashes
from steer_server.training.reward_data import read_rows
from steer_server.training.trained_on import prompt_hash

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
        data: directory of the recipes' data files, or of others with the same names.
        shipped: directory of the adapters that steer.

    Raises: EvaluationError when a file cannot be read or no prompt is left.
    """
    if judge.name in INSTRUCTION_FILES:
        source = INSTRUCTION_FILES[judge.name]
        found: dict[str, Messages] = {text: (("user", text),) for text in _instructions(data / source)}
    else:
        source = ", ".join(judge.recipe["head"]["sources"])
        found = _of_recipe(judge, data)
    seen = seen_hashes(shipped) | (judge.trained_on or frozenset())
    kept = [unit for unit in _shuffled(found, seed) if prompt_hash(unit) not in seen]
    if not kept:
        raise EvaluationError(f"judge {judge.name}: no prompt of {source} is left that was not trained on")
    chosen = kept[:limit] if limit else kept
    return JudgePrompts(
        tuple(found[unit] for unit in chosen), source, len(found), num_left_out=len(found) - len(kept)
    )


def _of_recipe(judge: Judge, data: Path) -> dict[str, Messages]:
    """Units of the judge's own sources, and what is asked of each."""
    sources = [judge.recipe["sources"][name] for name in judge.recipe["head"]["sources"]]
    try:
        rows = [row for source in sources for row in read_rows(source["reader"], data / source["file"])]
    except TrainingError as error:
        raise EvaluationError(f"judge {judge.name}: {error}") from error
    return {row.unit: row.messages for row in reversed(rows)}


def _instructions(path: Path) -> list[str]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return [str(json.loads(line)["instruction"]) for line in lines]
    except (OSError, ValueError, KeyError) as error:
        raise EvaluationError(f"cannot read instructions from {path.name}: {error!r}") from error


def _shuffled(units: Iterable[str], seed: int) -> list[str]:
    """By hash, so that a prompt more or less changes nothing about the others."""
    return sorted(units, key=lambda unit: hashlib.sha256(f"{seed}:{unit}".encode()).digest())
