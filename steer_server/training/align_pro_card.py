"""The card of a prompter: data, recipe, what it gains on held-out prompts beside its warm start, limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steer_server.training.card import bullets, origin

if TYPE_CHECKING:
    from steer_server.training.align_pro_recipe import AlignProRecipe


def align_pro_card(recipe: AlignProRecipe, scores: dict[str, Any]) -> str:
    """Markdown with every number of `scores`."""
    policy, ways = recipe.policy, scores["held_out"]["ways"]
    served = scores["served"]
    heads = ", ".join(f"{served['heads'][head]} (weight {weight:g})" for head, weight in recipe.heads.items())
    return f"""# {recipe.name}

{recipe.description}

A prompter: it rewrites what the user asks, and the model that answers, whose weights are not touched, is
shown the rewrite. LoRA of rank {recipe.rank} on all linear layers, trained in two stages: on pairs of a
prompt and its rewrite ({recipe.warm_start.num_steps} steps of {recipe.warm_start.batch_size}), then on its
own rewrites by the reward of the answers, less {policy.beta:g} per nat of divergence from the first stage
({policy.num_steps} steps of {policy.prompts_per_step} prompts with {policy.group_size} rewrites each).

Rewarded: {heads}, of answers of `{served["model"]}` to the user's own prompt, calibrated, 0 to 1. A rewrite
that fails the checks it is served with earns {policy.failure_reward:g} and is replaced by the prompt below.

{origin(scores["training_seconds"], recipe.data_sources, recipe.licence)}

Pairs: {scores["pairs_trained"]} trained on, {scores["pairs_held_out"]} held out by prompt,
{scores["pairs_left_out"]} left out as too long or as not passing the checks.{_warm_start(scores)}
Prompts: {scores["prompts_trained"]} trained on, {scores["prompts_left_out"]} left out as too long,
{scores["prompts_held_out"]} held out, which neither stage saw.

## Held-out prompts

Answers of at most {recipe.answering.max_tokens} tokens at temperature {recipe.answering.temperature:g};
greedy rewrites of at most {recipe.rewriting.max_tokens} tokens, as served with that limit; measured before
rounding to bf16. Brackets: 95 % intervals over prompts. The second row is what no difference looks like.

{_rewards(ways, recipe)}

The reward is the one that was trained on: a higher one is no proof that people find the answers better. Wins
count a higher reward than the plain prompt's answer; at equal length as the logistic fit expects them.

{_rewrites(ways)}

Replaced by the prompt: {_reasons("warm start", ways)}; {_reasons("trained", ways)}.

## Policy optimisation

Rewards of sampled rewrites of training prompts, over equal parts of the steps:

{_curve(scores["curve"])}

## Known failures

{bullets(recipe.known_failures)}
- The checks read words: what is kept of a prompt may still mean something else, and what is added is not
  looked at.
- It was trained with one frozen model's answers; another model may answer its rewrites worse than the prompt.
- It rewrites the last message alone and knows nothing of the turns before it.
"""


def _warm_start(scores: dict[str, Any]) -> str:
    found = scores["warm_start"]
    if not found:
        return ""
    return f" Nats per token of the held-out: {found['before']:.2f} before, {found['after']:.2f} after."


def _rewards(ways: dict[str, Any], recipe: AlignProRecipe) -> str:
    heads = list(recipe.heads) if len(recipe.heads) > 1 else []
    columns = ["sent", "mean reward", *heads, "gain", "win rate", "at equal length", "tokens"]
    rows = []
    for way, row in ways.items():
        cells = [way, f"{row['mean_reward']:.3f} {_interval(row['mean_reward_95'])}"]
        cells += [f"{row['heads'][head]:.3f}" for head in heads]
        if found := row.get("against_plain"):
            gain, gain_95 = found["mean_score_difference"], found["mean_score_difference_95"]
            cells.append(f"{gain:+.3f} {_interval(gain_95)}")
            cells.append(f"{found['win_rate']:.3f} {_interval(found['win_rate_95'])}")
            cells.append(f"{found['length_controlled_win_rate']:.3f}")
            cells.append(f"{found['mean_tokens']:.0f}")
        else:
            cells += [""] * 4
        rows.append(cells)
    return _table(columns, rows)


def _rewrites(ways: dict[str, Any]) -> str:
    columns = [
        "rewrites of",
        "replaced",
        "unchanged",
        "tokens",
        "times the prompt",
        "KL to the warm start, nats",
    ]
    rows = [
        [
            way,
            f"{row['replaced_share']:.3f}",
            f"{row['unchanged_share']:.3f}",
            f"{row['mean_tokens']:.0f}",
            f"{row['length_ratio']:.2f}",
            f"{row['divergence']:.2f}",
        ]
        for way, row in ways.items()
        if "replaced" in row
    ]
    return _table(columns, rows)


def _reasons(way: str, ways: dict[str, Any]) -> str:
    found = ways[way]["replaced"]
    return f"{way}: " + (", ".join(f"{reason} {num}" for reason, num in found.items()) or "none")


def _curve(parts: list[dict[str, float]]) -> str:
    rows = [
        [f"{part['last_step']:.0f}", f"{part['mean_reward']:.3f}", f"{part['failed_share']:.3f}"]
        for part in parts
    ]
    return _table(["up to step", "mean reward", "share that failed"], rows)


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---", *["--:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _interval(bounds: list[float]) -> str:
    return f"[{bounds[0]:.3f}, {bounds[1]:.3f}]"
