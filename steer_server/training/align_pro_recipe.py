"""The recipe file of `train align-pro`: rewrites to start from, prompts to practise on, what is rewarded."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from steer_server.catalogue.manifest import DataSource, Name
from steer_server.training.reward_recipe import SourceRecipe
from steer_server.training.strict_file import Strict, StrictFile

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=0.9)]


class PromptSource(SourceRecipe):
    """A data file whose prompts are practised on; of its rows only the prompts are read."""

    training_only: bool = False
    """None of its prompts is held out, such as where a reward head has learnt from them."""


class WarmStart(Strict):
    """Stage 1: supervised, on pairs of a prompt and its rewrite."""

    learning_rate: Positive = 1e-3
    num_steps: Count = 120
    batch_size: Count = 8
    """Pairs."""
    held_out_share: Share = 0.15
    """Share of the pairs' prompts that only measure how well the pairs were learnt."""


class PolicyOptimisation(Strict):
    """Stage 2: what the prompter samples is answered by the frozen model, and the answers are scored."""

    learning_rate: Positive = 2e-4
    num_steps: Count = 200
    prompts_per_step: Count = 4
    group_size: Annotated[int, Field(ge=2)] = 8
    """Rewrites of one prompt, whose mean reward is each other's baseline."""
    beta: NotNegative = 0.02
    """λ of `E r - λ KL(ρ ‖ ρ_sft)`, reward per nat of a whole rewrite."""
    failure_reward: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of a rewrite that fails the checks it is served with; answers' rewards lie within 0..1. At least what a
    plain prompt's answer gets would make failing worth while."""


class Rewriting(Strict):
    """How rewrites are drawn."""

    temperature: Positive = 0.8
    """The policy is the softmax of the logits over this: in sampling and in every log-probability. When
    served, and for the card's scores, it is greedy."""
    max_tokens: Count = 64
    """What does not end within so many is no rewrite. Prompts with more than 4 characters for each of them
    are left as they are, as when served."""


class Answering(Strict):
    """How the frozen model's answers are drawn."""

    temperature: NotNegative = 0.7
    max_tokens: Count = 96
    """Longest answer."""


class AlignProRecipe(StrictFile):
    """The whole file."""

    name: Name
    """The adapter's."""
    prompter: Name
    """What requests call it."""
    culture: Name | None = None
    """Whose values are rewarded, where they are one community's."""
    description: str = ""
    licence: str = ""
    known_failures: tuple[str, ...] = ()
    heads: dict[Name, NotNegative]
    """Weight of each reward head; one of weight 0 is only reported."""
    rank: Count = 8
    alpha: Count = 16
    warm_start: WarmStart = WarmStart()
    policy: PolicyOptimisation = PolicyOptimisation()
    rewriting: Rewriting = Rewriting()
    answering: Answering = Answering()
    pairs: Annotated[tuple[SourceRecipe, ...], Field(min_length=1)]
    """Sources whose answers are rewrites of their prompts."""
    prompts: Annotated[tuple[PromptSource, ...], Field(min_length=1)]
    held_out_share: Annotated[float, Field(gt=0, lt=0.9)] = 0.4
    """Share of the prompts that neither stage sees and the card's scores are over."""
    seed: int = 20261121

    @model_validator(mode="after")
    def _rewards_something(self) -> AlignProRecipe:
        if not any(self.heads.values()):
            raise ValueError("heads: at least one needs a weight above 0")
        if all(source.training_only for source in self.prompts):
            raise ValueError("prompts: at least one source must not be training_only, to hold some out")
        return self

    def reward(self, scores: dict[str, float]) -> float:
        """*Semantics*: `r = Σ_h w_h c_h / Σ_h w_h` of calibrated scores c, so 0..1."""
        total = sum(self.heads.values())
        return sum(weight * scores[head] for head, weight in self.heads.items()) / total

    @property
    def aim(self) -> str:
        """What is rewarded, for the manifest."""
        weights = ", ".join(f"{head} {weight:g}" for head, weight in self.heads.items() if weight)
        return f"reward heads, by weight: {weights}"

    @property
    def data_sources(self) -> tuple[DataSource, ...]:
        """For manifest and card."""
        return tuple(
            DataSource(source=one.source, licence=one.licence) for one in (*self.pairs, *self.prompts)
        )
