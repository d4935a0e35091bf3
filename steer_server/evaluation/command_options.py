"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Url = Annotated[str, typer.Option(help="Such as http://127.0.0.1:8000")]
REPORTS = "Directory for report.json and report.html."
ApiKey = Annotated[str, typer.Option(envvar="STEER_API_KEY")]
OperatorKey = Annotated[str, typer.Option(envvar="STEER_ADMIN_KEY", help="Operator key, if any is needed.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests under way at once.")]
OnlyCultures = Annotated[list[str] | None, typer.Option(help="Only these; repeatable.")]
Judges = Annotated[
    Path, typer.Option(help="Directory of judges: `train reward-head --split judge`.", exists=True)
]
RecipeData = Annotated[Path, typer.Option(help="Directory of the recipes' data files.", exists=True)]
Steering = Annotated[
    Path,
    typer.Option(help="The adapters that are served; what they were trained on is not asked.", exists=True),
]
SamplingSeed = Annotated[int, typer.Option(help="Of prompts and sampling.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Longest answer.")]
