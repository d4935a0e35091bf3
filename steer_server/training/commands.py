"""`steer-server train …`: a recipe and data in, adapter folders with cards out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer_server.settings import Settings

commands = typer.Typer(no_args_is_help=True, help="Train adapters and reward heads.")


@commands.command("culture")
def culture(
    recipe: Annotated[Path, typer.Option(help="YAML file with `defaults` and `cultures`.")],
    data: Annotated[Path, typer.Option(help="Survey answers, gzipped JSON lines.")],
    prompts: Annotated[Path, typer.Option(help="Ordinary prompts with answers, gzipped JSON lines.")],
    out: Annotated[Path, typer.Option(help="Directory that gets one adapter folder per culture.")],
    culture: Annotated[list[str] | None, typer.Option(help="Only these; repeatable.")] = None,
    model: Annotated[str, typer.Option()] = "builtin",
) -> None:
    """Train culture adapters on a survey. A culture that is already in `out` is skipped."""
    from steer_server.training.culture import train_cultures

    settings = Settings.read(model=model)
    train_cultures(recipe, data, prompts, out, settings, only=culture or [])
