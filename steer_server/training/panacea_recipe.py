"""The recipe file of `train panacea`: value axes, the preference pairs that define them, and how to train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from steer_server.catalogue.manifest import DataSource, Name
from steer_server.errors import TrainingError
from steer_server.training.reward_recipe import SourceRecipe
from steer_server.training.strict_file import Strict, StrictFile

Aggregation = Literal["linear", "tchebycheff"]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class AxisRecipe(Strict):
    """One value axis."""

    axis: Name
    description: str
    sources: tuple[str, ...] = ()
    reversed_sources: tuple[str, ...] = ()
    """Sources whose rejected answers are this axis' chosen ones."""
    beta: Positive = 0.1
    """β of the DPO loss, per nat of Δ: larger keeps log-probabilities closer to the base model's."""
    ideal: float = 0.0
    """z of the Tchebycheff aggregation: the loss that this axis could reach at best."""
    known_failures: str = ""


class Training(Strict):
    """What decides the result of every adapter, besides data and axes."""

    aggregation: Aggregation = "linear"
    hold: Share = 0.0
    """How strongly an axis is held at the base model by what its weight lacks to 1, `h` in
    `Σ_i λ_i L_i + h (1 - λ_i) H_i`; 0 is Panacea's own aggregate. With linear aggregation only."""
    num_shared_ranks: Annotated[int, Field(ge=0)] = 4
    """k. With 0 an axis of weight 0 is the base model's by construction."""
    ranks_per_axis: Count = 1
    """n; 1 is Panacea's own."""
    initial_scale: Positive = 2.0
    """Where σ and s start: what alpha/rank is to a plain LoRA."""
    learning_rate: Positive = 1e-3
    num_steps: Count = 400
    batch_size: Count = 4
    """Pairs per minibatch; a minibatch is of one axis and one source."""
    axes_per_step: Annotated[int, Field(ge=0)] = 2
    """Minibatches per step, their axes drawn in proportion to what they count (λ if nothing is held). 0: one
    of every axis that counts, as Tchebycheff needs and does whatever is written here."""
    per_token: bool = False
    """Δ is of log-probabilities per token, so that an answer's length neither counts nor adds noise; whole
    answers' otherwise, which is DPO's own."""
    sft_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the chosen answers' mean negative log-likelihood per token."""
    vertex_share: Share = 0.25
    """Share of the steps whose λ is a vertex of the simplex: one axis alone."""
    concentration: Positive = 1.0
    """Of the symmetric Dirichlet that the other steps draw λ from; 1 is uniform on the simplex."""
    max_prompt_tokens: Annotated[int, Field(ge=8)] = 160
    """The end of a longer prompt is kept."""
    max_answer_tokens: Annotated[int, Field(ge=1)] = 96
    """The start of a longer answer is kept, without the end of the turn."""
    held_out_share: Annotated[float, Field(gt=0, lt=0.9)] = 0.2
    scored_pairs: Count = 80
    """Most held-out pairs per axis that the card's scores are over."""
    seed: int = 20261121

    @model_validator(mode="after")
    def _holds_only_with_linear(self) -> Training:
        if self.hold > 0 and self.aggregation != "linear":
            raise ValueError(f"hold goes with linear aggregation, not {self.aggregation}")
        return self


class PanaceaRecipe(StrictFile):
    """The whole file."""

    name: Name
    description: str = ""
    licence: str = ""
    training: Training = Training()
    sources: dict[str, SourceRecipe]
    axes: Annotated[tuple[AxisRecipe, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits_together(self) -> PanaceaRecipe:
        names = [axis.axis for axis in self.axes]
        if len(set(names)) != len(names):
            raise ValueError("two axes share a name")
        for axis in self.axes:
            used = [*axis.sources, *axis.reversed_sources]
            if not used or len(set(used)) != len(used):
                raise ValueError(f"axis {axis.axis} needs sources, each once")
            if unknown := set(used) - set(self.sources):
                raise ValueError(f"axis {axis.axis}: no source {sorted(unknown)}")
        return self

    def axis(self, name: str) -> AxisRecipe:
        """Raises: TrainingError for a name that is not in the file."""
        for axis in self.axes:
            if axis.axis == name:
                return axis
        raise TrainingError(f"no axis {name!r}; there are {sorted(a.axis for a in self.axes)}")

    def narrowed(self, axes: Sequence[str], aggregation: Aggregation | None) -> PanaceaRecipe:
        """The recipe with these axes only, in the file's order, and this aggregation; empty and None change
        nothing. What differs from the file is part of the new name.

        The number of steps shrinks with the number of axes: adapters of one axis each cost, all together,
        what the whole recipe costs, and each sees as many pairs of its axis.

        Raises: TrainingError for an axis that is not in the file.
        """
        wanted = {self.axis(name).axis for name in axes} or {a.axis for a in self.axes}
        kept = tuple(axis for axis in self.axes if axis.axis in wanted)
        parts = [self.name]
        if len(kept) < len(self.axes):
            parts += [axis.axis for axis in kept]
        if aggregation and aggregation != self.training.aggregation:
            parts.append(aggregation)
        training = self.training.model_copy(
            update={
                "aggregation": aggregation or self.training.aggregation,
                "hold": 0.0 if aggregation == "tchebycheff" else self.training.hold,
                "num_steps": max(1, self.training.num_steps * len(kept) // len(self.axes)),
            }
        )
        return self.model_copy(update={"name": "-".join(parts), "axes": kept, "training": training})

    @property
    def rank(self) -> int:
        """Of the adapter."""
        return self.axis_ranks(len(self.axes)).start

    def axis_ranks(self, index: int) -> range:
        """The ranks of an axis, which follow the shared ones."""
        first = self.training.num_shared_ranks + index * self.training.ranks_per_axis
        return range(first, first + self.training.ranks_per_axis)

    @property
    def data_sources(self) -> tuple[DataSource, ...]:
        """What the axes were learnt from, for manifest and card."""
        used = {name for axis in self.axes for name in (*axis.sources, *axis.reversed_sources)}
        return tuple(
            DataSource(source=source.source, licence=source.licence)
            for name, source in self.sources.items()
            if name in used
        )
