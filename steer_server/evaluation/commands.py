"""`steer-server bench …` and `steer-server eval …`: measurements that write a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer_server.settings import Settings

bench_commands = typer.Typer(no_args_is_help=True, help="Measure speed.")


@bench_commands.command("throughput")
def throughput(
    out: Annotated[Path, typer.Option(help="Directory for the JSON report.")] = Path("out/bench"),
    adapters: Annotated[Path, typer.Option()] = Path("adapters"),
    batch: Annotated[list[int] | None, typer.Option(help="Batch sizes; repeatable.")] = None,
    repeats: Annotated[int, typer.Option(help="Rounds of all variants, interleaved.")] = 2,
) -> None:
    """Decode throughput side by side: no LoRA, stock vLLM LoRA, the bank with all-different blends."""
    from steer_server.evaluation.throughput import run_throughput

    run_throughput(Settings.read(adapters=adapters.resolve()), batch or [8, 32], repeats, out)
