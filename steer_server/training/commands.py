"""`steer-server train …`: a recipe and data in, adapter folders with cards out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from steer_server.evaluation.command_options import ApiKey, Concurrency, Url
from steer_server.settings import Settings

commands = typer.Typer(no_args_is_help=True, help="Train adapters and reward heads.")


@commands.command("culture")
def culture(
    data: Annotated[Path, typer.Option(help="Survey answers: JSON lines, gzipped or not, or a CSV.")],
    out: Annotated[Path, typer.Option(help="Directory that gets one adapter folder per culture.")],
    recipe: Annotated[
        Path | None,
        typer.Option(help="YAML file with `defaults` and `cultures`; without it, a culture per community."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Ordinary prompts with answers to leave unchanged, JSON lines; some are built in."),
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help="Questions without answers, for mode `self`; gzipped JSON lines.")
    ] = None,
    culture: Annotated[list[str] | None, typer.Option(help="Only these; repeatable.")] = None,
    model: Annotated[str, typer.Option()] = "builtin",
) -> None:
    """Train culture adapters on people's answers, or on the model's own when it is told the culture.

    A culture that is already in `out` is skipped; a run that was stopped goes on where it was.
    """
    from steer_server.training.culture import train_cultures

    settings = Settings.read(model=model)
    train_cultures(recipe, data, prompts, out, settings, only=culture or [], questions=questions)


@commands.command("reward-head")
def reward_head(
    recipe: Annotated[Path, typer.Option(help="YAML file with `defaults`, `sources` and `heads`.")],
    data: Annotated[Path, typer.Option(help="Directory of the recipe's data files.")],
    out: Annotated[Path, typer.Option(help="Directory that gets one folder per head.")],
    split: Annotated[
        Literal["steer", "judge"], typer.Option(help="`judge` trains on other units, for judges.")
    ] = "steer",
    head: Annotated[list[str] | None, typer.Option(help="Only these; repeatable.")] = None,
    model: Annotated[str, typer.Option()] = "builtin",
) -> None:
    """Train reward heads on the frozen model's hidden states. A head that is already in `out` is skipped."""
    from steer_server.training.reward_head import train_reward_heads

    train_reward_heads(recipe, data, out, Settings.read(model=model), split, only=head or [])


@commands.command("panacea")
def panacea(
    recipe: Annotated[Path, typer.Option(help="YAML file with `training`, `sources` and `axes`.")],
    data: Annotated[Path, typer.Option(help="Directory of the recipe's data files.")],
    out: Annotated[Path, typer.Option(help="Directory that gets the adapter folder.")],
    aggregation: Annotated[
        Literal["linear", "tchebycheff"] | None, typer.Option(help="Instead of the recipe's.")
    ] = None,
    axis: Annotated[list[str] | None, typer.Option(help="Only these; repeatable.")] = None,
    as_lora: Annotated[
        bool, typer.Option("--as-lora", help="Write a single axis as an adapter that blends like a culture.")
    ] = False,
    model: Annotated[str, typer.Option()] = "builtin",
) -> None:
    """Train one adapter whose value axes a request weighs, on preference pairs.

    An adapter that is already in `out` is skipped; a run that was stopped goes on where it was.
    """
    from steer_server.training.panacea import train_panacea

    settings = Settings.read(model=model)
    train_panacea(recipe, data, out, settings, axis or [], aggregation, as_lora)


@commands.command("pareto-expert")
def pareto_expert(
    recipe: Annotated[Path, typer.Option(help="YAML file with `axes` and `anchors`.")],
    anchors: Annotated[Path, typer.Option(help="Directory of the anchors' folders, which are LoRAs.")],
    out: Annotated[Path, typer.Option(help="Directory that gets the adapter folder.")],
    model: Annotated[str, typer.Option()] = "builtin",
) -> None:
    """Put trained adapters, each for one preference vector, into one that is weighed between them.

    An adapter that is already in `out` is skipped.
    """
    from steer_server.training.pareto_expert import make_pareto_expert

    make_pareto_expert(recipe, anchors, out, Settings.read(model=model))


@commands.command("align-pro")
def align_pro(
    recipe: Annotated[Path, typer.Option(help="YAML file with `heads`, `pairs` and `prompts`.")],
    data: Annotated[Path, typer.Option(help="Directory of the recipe's data files.")],
    out: Annotated[Path, typer.Option(help="Directory that gets the adapter folder.")],
    url: Url = "http://127.0.0.1:8000",
    api_key: ApiKey = "",
    concurrency: Concurrency = 16,
    model: Annotated[str, typer.Option(help="That becomes the prompter.")] = "builtin",
) -> None:
    """Train a prompter: on rewritten prompts, then by what a running server's answers to its rewrites earn.

    An adapter that is already in `out` is skipped; a run that was stopped goes on where it was.
    """
    from steer_server.training.align_pro import train_align_pro

    train_align_pro(recipe, data, out, Settings.read(model=model), url, api_key, concurrency)
