"""Preference pairs of a value axis, their split by prompt, and minibatches drawn from them.

The held-out pairs follow from recipe and data alone, so a later measurement of a served adapter finds the
same ones: `held_out_pairs`. Units are whole texts, so some held-out prompts differ from one that is trained
on by a word or two: what is scored leaves these near copies out. No tokenizer and no model here.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from steer_server.errors import TrainingError
from steer_server.frozen.wording import words
from steer_server.training.panacea_recipe import AxisRecipe, PanaceaRecipe
from steer_server.training.reward_data import read_rows

CANDIDATES_PER_PAIR = 4
NEAR_COPY = 0.7
"""Least Jaccard index of the words of two prompts that are near copies of each other."""


@dataclass(frozen=True)
class PreferencePair:
    unit: str
    """The prompt, by which pairs are split."""
    source: str
    messages: tuple[tuple[str, str], ...]
    """(role, content) of what comes before the answer; the last is the user's."""
    chosen: str
    rejected: str
    certainty: float
    """Share of people who prefer `chosen`: above 0.5, at most 1."""


def read_pairs(recipe: PanaceaRecipe, axis: AxisRecipe, data: Path) -> list[PreferencePair]:
    """All pairs of an axis, in the order of its sources and their rows. Ties are left out.

    Raises: TrainingError for unreadable data.
    """
    pairs = []
    for name in (*axis.sources, *axis.reversed_sources):
        source = recipe.sources[name]
        for row in read_rows(source.reader, data / source.file):
            # How many people prefer `answer` as this axis sees it.
            share = 1 - row.target if name in axis.reversed_sources else row.target
            # An answer without text would teach the end of the turn alone.
            if row.other is None or share == 0.5 or not (row.answer.strip() and row.other.strip()):
                continue
            chosen, rejected = (row.answer, row.other) if share > 0.5 else (row.other, row.answer)
            certainty = max(share, 1 - share)
            pairs.append(PreferencePair(row.unit, name, row.messages, chosen, rejected, certainty))
    return pairs


def split_pairs(
    pairs: Sequence[PreferencePair], held_out_share: float, seed: int
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """(training, held out) by prompt: one prompt is on the same side in every source and for every axis."""

    def is_held_out(pair: PreferencePair) -> bool:
        return random.Random(f"{seed}:{pair.unit}").random() < held_out_share

    return [p for p in pairs if not is_held_out(p)], [p for p in pairs if is_held_out(p)]


def axis_split(
    recipe: PanaceaRecipe, axis: str, data: Path
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """(training, held out) pairs of one axis.

    Raises: TrainingError for an unknown axis, unreadable data, or when one of the two is empty.
    """
    pairs = read_pairs(recipe, recipe.axis(axis), data)
    training, held_out = split_pairs(pairs, recipe.training.held_out_share, recipe.training.seed)
    if not training or not held_out:
        raise TrainingError(f"{axis}: {len(training)} pairs to train on, {len(held_out)} held out")
    return training, held_out


def fold_of(pair: PreferencePair, share: float, seed: int) -> int:
    """Folds of this share each, the last maybe smaller, by prompt; the held-out pairs are fold 0."""
    return int(random.Random(f"{seed}:{pair.unit}").random() / share)


def held_out_pairs(
    recipe: PanaceaRecipe, axis: str, data: Path, most: int | None = None
) -> list[PreferencePair]:
    """The pairs of an axis that training never sees, less near copies of those that it sees; at most `most`,
    drawn by the recipe's seed as the card's are: every source in turn gives one, every prompt at most once
    while there are others.

    Raises: TrainingError as `axis_split`.
    """
    training, held_out = axis_split(recipe, axis, data)
    return spread(without_near_copies(held_out, training), most, recipe.training.seed)


def without_near_copies(
    pairs: Sequence[PreferencePair], training: Sequence[PreferencePair]
) -> list[PreferencePair]:
    """The pairs whose prompt is no near copy of one that is trained on.

    *Semantics*: left out are prompts p with `|W(p) ∩ W(t)| / |W(p) ∪ W(t)| >= NEAR_COPY` for some prompt t of
    `training`, W being the set of words behind what all prompts of a source begin with.

    Raises: TrainingError when none is left.
    """
    units: dict[str, set[str]] = defaultdict(set)
    for pair in (*training, *pairs):
        units[pair.source].add(pair.unit)
    begins = {source: _shared_begin(some) for source, some in units.items()}

    def told(pair: PreferencePair) -> frozenset[str]:
        return frozenset(words(pair.unit.removeprefix(begins[pair.source])))

    trained = set(map(told, training))
    copies = {one for one in set(map(told, pairs)) if any(_is_near(one, other) for other in trained)}
    kept = [pair for pair in pairs if told(pair) not in copies]
    if not kept:
        raise TrainingError(f"each of {len(pairs)} held-out pairs is a near copy of one that is trained on")
    return kept


def _shared_begin(texts: Collection[str]) -> str:
    """The characters that all begin with; none where there is one text alone."""
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False))
    return "".join(column[0] for column in alike) if len(texts) > 1 else ""


def _is_near(one: frozenset[str], other: frozenset[str]) -> bool:
    shared = len(one & other)
    return shared >= NEAR_COPY * (len(one) + len(other) - shared)


def spread(pairs: Sequence[PreferencePair], most: int | None, seed: int) -> list[PreferencePair]:
    """At most `most` pairs that cover sources and prompts as evenly as they can; all of them for None."""
    if most is None or len(pairs) <= most:
        return list(pairs)
    shuffled = random.Random(seed).sample(list(pairs), len(pairs))
    seen_units: dict[tuple[str, str], int] = defaultdict(int)
    ranked = []
    for pair in shuffled:
        ranked.append((seen_units[pair.source, pair.unit], pair))
        seen_units[pair.source, pair.unit] += 1
    ranked.sort(key=lambda item: item[0])
    turns: dict[str, int] = defaultdict(int)
    queue = []
    for _, pair in ranked:
        queue.append((turns[pair.source], pair))
        turns[pair.source] += 1
    queue.sort(key=lambda item: item[0])
    return [pair for _, pair in queue[:most]]


class PairSampler:
    """Minibatches of one axis. Every source counts the same, within one every prompt the same, however many
    pairs there are to it."""

    def __init__(self, pairs: Sequence[PreferencePair], batch_size: int) -> None:
        self.batch_size = batch_size
        grouped: dict[str, dict[str, list[PreferencePair]]] = defaultdict(lambda: defaultdict(list))
        for pair in pairs:
            grouped[pair.source][pair.unit].append(pair)
        self._units = {
            source: [by_unit[unit] for unit in sorted(by_unit)] for source, by_unit in sorted(grouped.items())
        }

    def draw(self, key: str) -> list[PreferencePair]:
        """A minibatch that depends on `key` alone. It is of one source and of pairs of similar length, so
        that little of it is padding: of four times as many candidates, sorted by length, one quarter that is
        drawn at random, so every candidate is as likely as any other."""
        rng = random.Random(key)
        units = self._units[rng.choice(list(self._units))]
        candidates = [rng.choice(rng.choice(units)) for _ in range(CANDIDATES_PER_PAIR * self.batch_size)]
        candidates.sort(key=_length)
        start = rng.randrange(CANDIDATES_PER_PAIR) * self.batch_size
        return candidates[start : start + self.batch_size]


def _length(pair: PreferencePair) -> int:
    texts = [content for _, content in pair.messages]
    return sum(map(len, texts)) + len(pair.chosen) + len(pair.rejected)
