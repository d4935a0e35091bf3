"""`steer-server bench …`: measurements of speed and endurance that write a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer_server.evaluation.command_options import (
    REPORTS,
    Judges,
    MaxTokens,
    OperatorKey,
    RecipeData,
    SamplingSeed,
    Steering,
    Url,
)
from steer_server.settings import Settings

commands = typer.Typer(no_args_is_help=True, help="Measure speed.")


@commands.command("throughput")
def throughput(
    out: Annotated[Path, typer.Option(help=REPORTS)] = Path("out/throughput"),
    adapters: Annotated[Path, typer.Option()] = Path("adapters"),
    batch: Annotated[list[int] | None, typer.Option(help="Batch sizes; repeatable.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of all engines, interleaved.")] = 2,
) -> None:
    """Speed side by side: no LoRA, stock vLLM LoRA, and the bank unsteered, with one blend and with
    all-different ones."""
    from steer_server.evaluation.throughput.throughput import run_throughput

    run_throughput(Settings.read(adapters=adapters.resolve()), batch or [1, 8, 32, 64], repeats, out)


@commands.command("streams", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def streams(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help=REPORTS)] = Path("out/streams"),
    model: Annotated[str, typer.Option(help="Of both servers.")] = "builtin",
    adapters: Annotated[Path, typer.Option(help="Cultures to blend; at least two.")] = Path("adapters"),
    streams: Annotated[int, typer.Option(min=1, help="Under way at once.")] = 32,
    tokens: Annotated[int, typer.Option(min=2, help="Of each answer.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Of all ways, interleaved.")] = 5,
) -> None:
    """Speed over HTTP: stock vLLM's own server without LoRA, which this starts too, and ours, unsteered and
    with another blend in every stream. Further options go to both servers, such as `--max-model-len 2048`."""
    from steer_server.evaluation.throughput.streams import StreamsOptions, evaluate_streams

    settings = Settings.read(model=model, adapters=adapters.resolve())
    evaluate_streams(StreamsOptions(streams, tokens, rounds), settings, context.args, out)


@commands.command("scale")
def scale(
    out: Annotated[Path, typer.Option(help=REPORTS)] = Path("out/scale"),
    bank: Annotated[list[str] | None, typer.Option(help="SLOTSxRANK, such as 32x16; repeatable.")] = None,
    operations_per_byte: Annotated[
        float, typer.Option(min=1, help="Of the machine in bf16; an H100 has 989 TFLOP/s over 3.35 TB/s.")
    ] = 295.0,
) -> None:
    """The bank's memory and work in larger models, and when a gather per adapter is cheaper, by formula."""
    from steer_server.evaluation.throughput.scale import show_scale

    banks = []
    for text in bank or ["8x8", "8x16", "32x16", "128x16"]:
        slots, _, rank = text.partition("x")
        if not (slots.isdigit() and rank.isdigit() and int(slots) and int(rank)):
            raise typer.BadParameter(f"takes SLOTSxRANK, not {text!r}", param_hint="--bank")
        banks.append((int(slots), int(rank)))
    show_scale(banks, operations_per_byte, out)


@commands.command("overhead", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def overhead(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help=REPORTS)] = Path("out/overhead"),
    model: Annotated[str, typer.Option(help="Of both servers.")] = "builtin",
    adapters: Annotated[Path, typer.Option(help="Cultures to blend; at least two.")] = Path("adapters"),
    rounds: Annotated[int, typer.Option(min=1, help="Of all ways, interleaved.")] = 5,
    requests: Annotated[int, typer.Option(min=1, help="Of each way in a round.")] = 200,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at once.")] = 8,
    tokens: Annotated[int, typer.Option(min=1, help="Of each answer.")] = 4,
    plans: Annotated[int, typer.Option(min=0, help="Distinct ones to watch memory over; 0: none.")] = 10_000,
) -> None:
    """What the HTTP part costs beside stock vLLM's own server, which this starts too: CPU, memory, planning.
    Further options go to both servers, such as `--max-model-len 2048`."""
    from steer_server.evaluation.overhead.overhead import OverheadOptions, evaluate_overhead

    options = OverheadOptions(rounds, requests, concurrency, tokens, plans)
    settings = Settings.read(model=model, adapters=adapters.resolve())
    evaluate_overhead(options, settings, context.args, out)


@commands.command("churn")
def churn(
    package: Annotated[Path, typer.Option(help="Of a culture; copies of it are churned.", exists=True)],
    url: Url = "http://127.0.0.1:8000",
    key: OperatorKey = "",
    streams: Annotated[int, typer.Option(min=1, help="Streaming requests under way at once.")] = 32,
    acts: Annotated[int, typer.Option(min=0, help="Acts of the operator.")] = 200,
    names: Annotated[int, typer.Option(min=2, help="Churned adapters, of two versions each.")] = 3,
    quiet_seconds: Annotated[float, typer.Option(min=0, help="The same streams without acts.")] = 60.0,
    out: Annotated[Path, typer.Option(help=REPORTS)] = Path("out/churn"),
    seed: Annotated[int, typer.Option(help="Of requests and acts.")] = 20261121,
) -> None:
    """Streams of a running server while adapters are pushed, switched, quarantined and removed."""
    from steer_server.evaluation.churn.churn import ChurnOptions, evaluate_churn

    options = ChurnOptions(url, package, key, streams, acts, names, quiet_seconds, seed=seed)
    evaluate_churn(options, out)


@commands.command("reload")
def reload(
    package: Annotated[Path, typer.Option(help="Of a culture; copies of it are loaded.", exists=True)],
    url: Url = "http://127.0.0.1:8000",
    key: OperatorKey = "",
    cycles: Annotated[int, typer.Option(min=1, help="Times an adapter is loaded and unloaded.")] = 1000,
    slots: Annotated[int, typer.Option(min=0, help="Of the bank; 0: as the server says.")] = 0,
    out: Annotated[Path, typer.Option(help=REPORTS)] = Path("out/reload"),
) -> None:
    """Load and unload adapters of a running server many times: are slots and memory back where they were?"""
    from steer_server.evaluation.churn.reload import ReloadOptions, evaluate_reload

    evaluate_reload(ReloadOptions(url, package, key, cycles, slots), out)


@commands.command("rewards")
def rewards(
    judges: Judges,
    data: RecipeData,
    url: Url = "http://127.0.0.1:8000",
    key: OperatorKey = "",
    out: Annotated[Path, typer.Option(help=REPORTS)] = Path("out/rewards"),
    adapters: Steering = Path("adapters"),
    head: Annotated[str, typer.Option(help="That chooses.")] = "harmless",
    judge: Annotated[str, typer.Option(help="Without: of the head's name.")] = "",
    answers: Annotated[int, typer.Option(min=1, max=256, help="Scored at once.")] = 64,
    more_heads: Annotated[int, typer.Option(min=0, help="Pushed for the comparison.")] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="Of measuring the cost.")] = 7,
    prompts: Annotated[int, typer.Option(min=1, help="Most prompts to answer.")] = 100,
    candidates: Annotated[int, typer.Option(min=2, help="n of best-of-n.")] = 4,
    temperature: Annotated[float, typer.Option(min=0.01)] = 0.7,
    max_tokens: MaxTokens = 64,
    seed: SamplingSeed = 20261121,
    model: Annotated[str, typer.Option(help="The model that the judge was trained on.")] = "builtin",
    concurrency: Annotated[int, typer.Option(min=1, help="Prompts under way at once.")] = 4,
) -> None:
    """What scoring costs beside a prefill, and what best-of-n gains beside one answer and a client's own."""
    from steer_server.evaluation.rewards.rewards import RewardsOptions, evaluate_rewards
    from steer_server.evaluation.samples import Sampling

    evaluate_rewards(
        RewardsOptions(
            url=url,
            data=data,
            judges=judges,
            shipped=adapters,
            key=key,
            head=head,
            judge=judge,
            answers=answers,
            more_heads=more_heads,
            rounds=rounds,
            prompts=prompts,
            candidates=candidates,
            sampling=Sampling(temperature, max_tokens, seed),
            concurrency=concurrency,
        ),
        Settings.read(model=model),
        out,
    )
