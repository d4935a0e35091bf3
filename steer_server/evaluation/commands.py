"""`steer-server bench …` and `steer-server eval …`: measurements that write a report."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from steer_server.evaluation.answers import Readout
from steer_server.settings import Settings

bench_commands = typer.Typer(no_args_is_help=True, help="Measure speed.")
eval_commands = typer.Typer(no_args_is_help=True, help="Measure how well a running server steers.")


class Questions(StrEnum):
    HELD_OUT = "held-out"
    ALL = "all"


class Readouts(StrEnum):
    LETTERS = "letters"
    WORDS = "words"
    BOTH = "both"


READOUTS: dict[Readouts, tuple[Readout, ...]] = {
    Readouts.LETTERS: ("letters",),
    Readouts.WORDS: ("words",),
    Readouts.BOTH: ("letters", "words"),
}
Url = Annotated[str, typer.Option(help="Such as http://127.0.0.1:8000")]
ApiKey = Annotated[str, typer.Option(envvar="STEER_API_KEY")]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests under way at once.")]
OnlyCultures = Annotated[list[str] | None, typer.Option(help="Only these; repeatable.")]


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


@eval_commands.command("survey")
def survey(
    data: Annotated[Path, typer.Option(help="Survey answers, gzipped JSON lines.", exists=True)],
    out: Annotated[Path, typer.Option(help="Directory for report.json and report.html.")],
    url: Url = "http://127.0.0.1:8000",
    api_key: ApiKey = "",
    questions: Annotated[Questions, typer.Option(help="Those held out of training, or all.")] = (
        Questions.HELD_OUT
    ),
    seed: Annotated[int, typer.Option(help="Training's, which decides what is held out.")] = 20261121,
    held_out_share: Annotated[float, typer.Option(min=0, max=1, help="Training's.")] = 0.2,
    concurrency: Concurrency = 16,
    orders: Annotated[
        int, typer.Option(min=1, help="Option orders by letter: natural, reversed, random.")
    ] = 2,
    culture: OnlyCultures = None,
    readout: Annotated[Readouts, typer.Option(help="How answers are read.")] = Readouts.BOTH,
    pairs: Annotated[int, typer.Option(min=0, help="Pairs of cultures to blend, most different first.")] = 3,
    limit: Annotated[int, typer.Option(min=0, help="At most so many questions; 0 for all.")] = 0,
) -> None:
    """Distance of a running server's answers from people's, by country, beside baselines."""
    from steer_server.evaluation.survey import SurveyOptions, evaluate_survey

    evaluate_survey(
        SurveyOptions(
            url=url,
            data=data,
            api_key=api_key,
            questions=questions.value,
            seed=seed,
            held_out_share=held_out_share,
            concurrency=concurrency,
            orders=orders,
            cultures=tuple(culture or ()),
            readouts=READOUTS[readout],
            pairs=pairs,
            limit=limit,
        ),
        out,
    )


@eval_commands.command("norms")
def norms(
    data: Annotated[Path, typer.Option(help="Social stories by country, gzipped JSON lines.", exists=True)],
    out: Annotated[Path, typer.Option(help="Directory for report.json and report.html.")],
    url: Url = "http://127.0.0.1:8000",
    api_key: ApiKey = "",
    seed: Annotated[int, typer.Option(help="Of option orders, of the sample and of the folds.")] = 20261121,
    concurrency: Concurrency = 16,
    orders: Annotated[int, typer.Option(min=1, max=6, help="Option orders to average over.")] = 3,
    culture: OnlyCultures = None,
    steered_only: Annotated[
        bool, typer.Option("--steered-only", help="Only stories of countries that a culture lists.")
    ] = False,
    limit: Annotated[int, typer.Option(min=0, help="At most so many stories, spread over countries.")] = 0,
) -> None:
    """Accuracy of a running server's judgements of social norms, by country, beside baselines."""
    from steer_server.evaluation.norms import NormsOptions, evaluate_norms

    evaluate_norms(
        NormsOptions(
            url=url,
            data=data,
            api_key=api_key,
            seed=seed,
            concurrency=concurrency,
            orders=orders,
            cultures=tuple(culture or ()),
            steered_only=steered_only,
            limit=limit,
        ),
        out,
    )
