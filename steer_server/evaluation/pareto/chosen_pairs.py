"""Which preference pairs of an axis are scored, and why the others are not.

held-out   those that training with this recipe on these data leaves out, less near copies of those it sees
all        every pair: for data that were kept back as a whole; near copies are not looked for, as what was
           trained on is not there
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from steer_server.errors import TrainingError
from steer_server.training.panacea_recipe import PanaceaRecipe
from steer_server.training.preference_baselines import baselines, baselines_by_fold
from steer_server.training.preference_data import (
    PreferencePair,
    axis_split,
    read_pairs,
    spread,
    without_near_copies,
)

PairSplit = Literal["held-out", "all"]


@dataclass(frozen=True)
class ChosenPairs:
    """Of one axis."""

    recipe: PanaceaRecipe
    training: tuple[PreferencePair, ...] | None
    """What a bag of words learns from; None: each fold from the others."""
    scorable: tuple[PreferencePair, ...]
    asked: tuple[PreferencePair, ...]
    """At most as many as were wanted."""
    num_near_copies: int = 0

    def describe(self, scored: Sequence[int]) -> dict[str, Any]:
        """Counts, and what needs no model on the same pairs.

        Args:
            scored: indices into `asked` of the pairs that were answered; at least one.
        """
        num_training = 0 if self.training is None else len(self.training)
        return {
            "in_data": num_training + self.num_near_copies + len(self.scorable),
            "left_out_as_training": num_training,
            "left_out_as_near_copies": self.num_near_copies,
            "asked": len(self.asked),
            "scored": len(scored),
            "dropped": len(self.asked) - len(scored),
            "baselines": self._baselines([self.asked[i] for i in scored]),
        }

    def _baselines(self, scored: Sequence[PreferencePair]) -> dict[str, float]:
        if self.training is not None:
            return baselines(scored, self.training)
        settings = self.recipe.training
        return baselines_by_fold(scored, self.scorable, settings.held_out_share, settings.seed)


def choose_pairs(
    recipe: PanaceaRecipe, axis: str, data: Path, split: PairSplit, most: int | None
) -> ChosenPairs:
    """At most `most` pairs (None: all), drawn as the card's are.

    Raises: TrainingError for an unknown axis, unreadable data, or when no pair is left.
    """
    seed = recipe.training.seed
    if split == "all":
        pairs = tuple(read_pairs(recipe, recipe.axis(axis), data))
        if not pairs:
            raise TrainingError(f"{axis}: no preference pair")
        return ChosenPairs(recipe, None, pairs, tuple(spread(pairs, most, seed)))
    training, held_out = axis_split(recipe, axis, data)
    distinct = tuple(without_near_copies(held_out, training))
    asked = tuple(spread(distinct, most, seed))
    return ChosenPairs(recipe, tuple(training), distinct, asked, len(held_out) - len(distinct))
