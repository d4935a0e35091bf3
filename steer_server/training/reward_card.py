"""The card of a reward head: what it scores, how well beside its baselines, and where it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steer_server.catalogue.reward_head import RewardHeadConfig
from steer_server.training.reward_recipe import HeadRecipe, SourceRecipe


def card(
    head: HeadRecipe, sources: Sequence[SourceRecipe], config: RewardHeadConfig, made: Mapping[str, Any]
) -> str:
    """Markdown with every number of `config.metrics`."""
    metrics: dict[str, Any] = dict(config.metrics)
    crossed, test, fit = metrics["cross_validated"], metrics["test"], metrics["fit"]
    calibration = config.calibration
    is_pairs = config.model == "bradley_terry"
    unit = "a choice between two answers" if is_pairs else "a yes or no"
    columns = ["rows", "accuracy", "majority", "bag_of_words", *(["length"] if is_pairs else [])]
    lines = [
        f"# {head.head}",
        "",
        head.description,
        "",
        f"A calibrated score is the probability that this holds: {head.label_meaning}.",
        "",
        "Score: `raw = w·h + b` on the hidden state of the text's last token after the model's final norm; "
        f"`calibrated = σ({calibration.scale:.4g}·raw {calibration.offset:+.4g})`. Text: the chat template "
        "over the messages and the answer up to the token that ends the turn, the last "
        f"{config.text_format.max_tokens} tokens of it.",
        "",
        f"Fit: {'Bradley-Terry on pairs' if is_pairs else 'logistic, neutral as 0.5'}, weighting "
        f"`{metrics['weighting']}`, pool penalty {fit['pool_penalty']}, offset penalty "
        f"{fit['offset_penalty']} ({metrics['rows_trained']} rows of its own, "
        f"{metrics['rows_in_pool']} in the pool). Split: `{config.split}`.",
        "",
        f"## Scores, of {unit}",
        "",
        "Every row is scored by a head that saw nothing of its unit (country, post or prompt). "
        "`cross-validated` is the recipe, refitted without each fold; `test` is these weights on the part "
        "that no head is trained on. Bag of words is the better of two, learnt on the pool or on the head's "
        "own rows.",
        "",
        "| rows scored | " + " | ".join(_title(c) for c in columns) + " | ECE before | ECE after |",
        "|---|" + "---|" * (len(columns) + 2),
        _row("cross-validated", crossed, [*columns, "ece_before", "ece_after"]),
        _row("test", test, [*columns, "ece_before", "ece_after"]),
        "",
    ]
    if len(crossed["by_group"]) < metrics["num_groups_in_pool"]:
        lines += [
            "What all cultures of the pool share, without this head's own offset: "
            f"{crossed['shared_part']:.3f} on the cross-validated rows.",
            "",
        ]
    if three := crossed.get("three_classes"):
        lines += [
            f"With neutral as a third class (two thresholds on the score; {three['rows']} rows): accuracy "
            f"{three['accuracy']:.3f}, majority {three['majority']:.3f}, bag of words "
            f"{three['bag_of_words']:.3f}.",
            "",
        ]
    lines += ["| group, cross-validated | " + " | ".join(_title(c) for c in columns) + " |"]
    lines += ["|---|" + "---|" * len(columns)]
    lines += [_row(name, scores, columns) for name, scores in crossed["by_group"].items()]
    worst = crossed["worst"]
    lines += ["", f"Worst group: {worst['group']}, {worst['accuracy']:.3f} of {worst['rows']} rows.", ""]
    lines += [
        f"Cross-validated, {verdict(crossed)} On the test part, {verdict(test)}",
        "",
        "## Known failures",
        "",
    ]
    lines += [
        f"- {head.known_failures or 'None was looked for beyond these tables.'}",
        "- Only the last tokens of a long text count, and a very small model reads them.",
        "- It is no description of any person, or of all people of a country.",
        "",
        "## Data",
        "",
        *(f"- {source.source}. Licence: {source.licence}." for source in sources),
        "",
        "No row of the data is in this folder.",
        "",
        f"Made by `{made['command']}` at commit `{made['commit']}`, {made['made'][:10]}; the recipe is in "
        "`recipe.json`.",
        "",
    ]
    return "\n".join(lines)


def verdict(scores: Mapping[str, Any]) -> str:
    """Which baselines the accuracy does not beat, in one sentence."""
    baselines = [name for name in ("majority", "bag_of_words", "length") if name in scores]
    ahead = [name for name in baselines if scores["accuracy"] > scores[name]]
    behind = [name for name in baselines if name not in ahead]
    if not behind:
        return "it beats every baseline."
    return (
        f"**it does not beat {' and '.join(_title(name) for name in behind)}**"
        + (f"; it does beat {' and '.join(_title(name) for name in ahead)}" if ahead else "")
        + "."
    )


def _title(column: str) -> str:
    return column.replace("_", " ")


def _row(name: str, scores: Mapping[str, Any], columns: Sequence[str]) -> str:
    cells = [scores.get(column, "") for column in columns]
    return f"| {name} | " + " | ".join(f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells) + " |"
