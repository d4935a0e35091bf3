"""The card of a preference adapter: data, recipe, accuracy at the simplex' corners and middle, limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steer_server.training.card import bullets, origin
from steer_server.training.preference_baselines import BASELINES
from steer_server.training.preference_data import NEAR_COPY

if TYPE_CHECKING:
    from steer_server.training.panacea_recipe import PanaceaRecipe, Training

AGGREGATES = {"linear": "Σ λ_i L_i", "tchebycheff": "max_i λ_i (L_i - z_i)"}


def panacea_card(recipe: PanaceaRecipe, scores: dict[str, Any]) -> str:
    """Markdown. All scores are of held-out pairs, higher is better."""
    training = recipe.training
    axes = [axis.axis for axis in recipe.axes]
    num_axes = len(axes)
    axis_lines = [
        f"**{axis.axis}** (ranks {_span(recipe.axis_ranks(i))}): {axis.description}"
        for i, axis in enumerate(recipe.axes)
    ]
    worst = scores["settings"][-1]["axes"][scores["worst_axis"]]["log_ratio"]
    fewest = min(scores["pairs_scored"].values())
    pairs = "; ".join(
        f"{axis} {counts['trained']} trained on, {counts['held_out']} held out, "
        f"{scores['pairs_scored'][axis]} of those scored"
        for axis, counts in scores["pairs"].items()
    )
    return f"""# {recipe.name}

{recipe.description}

An SVD-LoRA on all linear layers with {training.num_shared_ranks} shared ranks, and
{training.ranks_per_axis} per value axis, whose gates are the preference vector λ. Trained for
{training.num_steps} steps that each draw a λ, on DPO with the aggregate
`{AGGREGATES[training.aggregation]}` ({training.aggregation}).

{bullets(axis_lines)}

{origin(scores["training_seconds"], recipe.data_sources, recipe.licence)}

Pairs, split by prompt: {pairs}.

## Held-out pairs

A row is a preference vector, a column the axis whose pairs are asked. Measured before rounding to bf16, texts
cut to {training.max_prompt_tokens} prompt and {training.max_answer_tokens} answer tokens.

Share of pairs where the adapter moved the model toward the preferred answer (the log-probability of the
preferred answer over the other's rose; the base model is 0.5 by definition):

{_matrix(scores["settings"], axes, "log_ratio")}

The same, counting how far each pair moved: mean of σ(βΔ), Δ being how much the log-probability of the
preferred answer{" per token" if training.per_token else ""} rose over the other's (the base model is 0.5):

{_matrix(scores["settings"], axes, "objective")}

Share of pairs where the model finds the preferred answer more probable than the other, {_unit(training)}:

{_matrix(scores["settings"], axes, "likelihood")}

Worst axis at {_middle(num_axes)}: {scores["worst_axis"]}, {worst:.2f}. Of {fewest}
pairs the standard error of a share near one half is {0.5 / fewest**0.5:.2f}.

{_baseline_section(scores)}
## Known failures

{bullets(f"**{axis.axis}**: {axis.known_failures}" for axis in recipe.axes if axis.known_failures)}
- A loader that does not know gates opens the folder with every axis at full strength at once, which no
  preference vector asks for and no training step saw.
- No pair was judged on two axes: how axes trade against each other on one prompt was not learnt from people.
- A model of this size learns the wording of answers more than their merit.
"""


def _baseline_section(scores: Mapping[str, Any]) -> str:
    """What of the card follows from the data alone."""
    rows = [
        f"| {axis} | {scores['pairs_scored'][axis]} | "
        + " | ".join(f"{found[name]:.2f}" for name in BASELINES)
        + " |"
        for axis, found in scores["baselines"].items()
    ]
    near = ", ".join(f"{axis} {counts['near_copies']}" for axis, counts in scores["pairs"].items())
    return f"""## Without a model

Share of the same pairs whose preferred answer is found without a model: by always taking the longer one, by
always taking the shorter one, and by a bag of words on prompt and answers, learnt on the training pairs.

| axis | pairs | longer | shorter | bag of words |
|---|--:|--:|--:|--:|
{chr(10).join(rows)}

The shares that were moved, above, are relative to the base model: they say which way the adapter pushes, not
how often its answer is the preferred one. An adapter that makes longer answers more probable, whatever they
say, moves as many pairs as the column `longer` says.

Near copies of prompts that were trained on ({NEAR_COPY:.0%} of the words of both are the same)
are left out of what is scored: {near}.
"""


def _unit(training: Training) -> str:
    if training.per_token:
        return "per token"
    return "as a whole (longer ones are less probable whatever they say)"


def _span(ranks: range) -> str:
    return str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"


def _middle(num_axes: int) -> str:
    return "the uniform preference" if num_axes > 1 else "full weight"


def _matrix(settings: Sequence[dict[str, Any]], axes: Sequence[str], measure: str) -> str:
    rows = [f"| preference | {' | '.join(axes)} |", "|---|" + "--:|" * len(axes)]
    for setting in settings:
        cells = " | ".join(f"{setting['axes'][axis][measure]:.2f}" for axis in axes)
        rows.append(f"| {setting['label']} | {cells} |")
    return "\n".join(rows)
