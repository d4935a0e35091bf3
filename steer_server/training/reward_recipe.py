"""The recipe file of `train reward-head`: where rows come from, and the heads that are made of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from steer_server.training.strict_file import Strict, StrictFile

Share = Annotated[float, Field(gt=0, lt=0.9)]


class SourceRecipe(Strict):
    """One data file."""

    file: str
    """Below --data."""
    reader: str
    """A key of `reward_data.READERS`."""
    source: str
    licence: str


class HeadRecipe(Strict):
    head: str
    """What requests call it; the folder is `head-<head>` (`judge-<head>` from the judges' split)."""
    sources: tuple[str, ...]
    """Heads with the same sources are fitted around one pool."""
    description: str
    label_meaning: str
    """What the calibrated score is the probability of."""
    culture: str | None = None
    groups: dict[str, str] = Field(default_factory=dict)
    """The head's own groups (as the data calls them) to ISO 3166 alpha-3; empty: every group."""
    licence: str = "see the data's licences"
    known_failures: str = ""


class Defaults(Strict):
    """What decides the result of every head, besides the data."""

    seed: int = 20261121
    test_share: Share = 0.2
    judge_share: Share = 0.3
    folds: Annotated[int, Field(ge=2, le=50)] = 5
    max_tokens: Annotated[int, Field(ge=8)] = 256
    pool_penalties: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
    offset_penalties: tuple[float | None, ...] = (None, 0.3, 0.1, 0.03)
    """None: no offset, the head is the pool; then heads of one pool differ in nothing."""
    weighting: Literal["equal", "group_robust"] = "equal"
    """equal: every row counts the same. group_robust: min-max over the heads of a pool, or over the groups of
    a head that stands alone."""
    eta: Annotated[float, Field(gt=0)] = 1.0
    rounds: Annotated[int, Field(ge=1)] = 20


class RewardRecipe(StrictFile):
    """The whole file."""

    defaults: Defaults = Defaults()
    sources: dict[str, SourceRecipe]
    heads: tuple[HeadRecipe, ...]

    @model_validator(mode="after")
    def _fits_together(self) -> RewardRecipe:
        names = [head.head for head in self.heads]
        if len(set(names)) != len(names):
            raise ValueError("two heads share a name")
        owners: dict[tuple[tuple[str, ...], str], str] = {}
        for head in self.heads:
            if unknown := set(head.sources) - set(self.sources):
                raise ValueError(f"head {head.head}: no source {sorted(unknown)}")
            for group in head.groups:
                if (other := owners.setdefault((head.sources, group), head.head)) != head.head:
                    raise ValueError(f"group {group} is in {other} and in {head.head}")
        return self
