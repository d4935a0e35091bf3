"""Pairs of prompt and rewrite, prompts to practise on, and the prompts that neither stage sees.

The held-out prompts follow from recipe and data alone, so a later measurement of a served prompter finds the
same ones: `held_out_prompts`. No tokenizer and no model here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from steer_server.errors import TrainingError
from steer_server.frozen.wording import words
from steer_server.training.align_pro_recipe import AlignProRecipe
from steer_server.training.reward_data import read_rows
from steer_server.training.reward_recipe import SourceRecipe

T = TypeVar("T")


@dataclass(frozen=True)
class RewritePair:
    prompt: str
    rewrite: str


@dataclass(frozen=True)
class AlignProData:
    """Everything that a recipe's files give. No prompt of `held_out` is, by its words, in another part."""

    pairs: tuple[RewritePair, ...]
    """For the warm start."""
    held_out_pairs: tuple[RewritePair, ...]
    """That only measure it."""
    prompts: tuple[str, ...]
    """For policy optimisation."""
    held_out: tuple[str, ...]
    """That neither stage sees."""


def read_align_pro_data(recipe: AlignProRecipe, data: Path) -> AlignProData:
    """Parts drawn by the recipe's seed, each in the order of sources and rows, each prompt once.

    Args:
        data: directory of the recipe's files.

    Raises: TrainingError for unreadable data, or when a part that is needed is empty.
    """
    pairs: dict[str, RewritePair] = {}
    for source in recipe.pairs:
        for pair in _pairs(source, data):
            pairs.setdefault(same_prompt(pair.prompt), pair)
    share = recipe.warm_start.held_out_share
    measured = {key for key in pairs if _is_drawn(f"{recipe.seed}:pair:{key}", share)}
    practised: dict[str, str] = {}
    seen = set(pairs)
    for prompts in recipe.prompts:
        for prompt in _prompts(prompts, data):
            practised.setdefault(same_prompt(prompt), prompt)
            if prompts.training_only:
                seen.add(same_prompt(prompt))
    held_out = {
        key
        for key in practised
        if key not in seen and _is_drawn(f"{recipe.seed}:{key}", recipe.held_out_share)
    }
    found = AlignProData(
        pairs=tuple(pair for key, pair in pairs.items() if key not in measured),
        held_out_pairs=tuple(pair for key, pair in pairs.items() if key in measured),
        prompts=tuple(prompt for key, prompt in practised.items() if key not in held_out),
        held_out=tuple(prompt for key, prompt in practised.items() if key in held_out),
    )
    if not found.pairs or not found.prompts or not found.held_out:
        raise TrainingError(
            f"{recipe.name}: {len(found.pairs)} pairs and {len(found.prompts)} prompts to train on, "
            f"{len(found.held_out)} prompts held out; none may be 0"
        )
    return found


def held_out_prompts(recipe: AlignProRecipe, data: Path) -> tuple[str, ...]:
    """The prompts that training never sees. Raises: TrainingError as `read_align_pro_data`."""
    return read_align_pro_data(recipe, data).held_out


def same_prompt(prompt: str) -> str:
    """Equal for copies of a prompt, which differ in case, space and punctuation: its words alone."""
    return " ".join(words(prompt))


def drawn(items: Sequence[T], count: int, step: int, seed: int) -> list[T]:
    """The items of one step, which follow from seed and step alone. Every item is drawn once before any is
    drawn again, each time round in another order."""
    found = []
    for index in range(step * count, (step + 1) * count):
        time_round, place = divmod(index, len(items))
        order = random.Random(f"{seed}:{time_round}").sample(range(len(items)), len(items))
        found.append(items[order[place]])
    return found


def _is_drawn(key: str, share: float) -> bool:
    return random.Random(key).random() < share


def _pairs(source: SourceRecipe, data: Path) -> list[RewritePair]:
    """Of rows whose answer is a rewrite, and a good one."""
    rows = read_rows(source.reader, data / source.file)
    return [
        RewritePair(row.messages[0][1], row.answer)
        for row in rows
        if len(row.messages) == 1 and row.other is None and row.target == 1
    ]


def _prompts(source: SourceRecipe, data: Path) -> list[str]:
    """Of conversations of one message; a rewrite replaces nothing else."""
    rows = read_rows(source.reader, data / source.file)
    return [row.messages[0][1] for row in rows if len(row.messages) == 1]
