"""`steer-server bench latency`, `soak` and `metrics-cost`: a running server under load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer_server.evaluation.command_options import REPORTS, ApiKey, OnlyCultures, Url
from steer_server.evaluation.load.open_loop import Arrivals

commands = typer.Typer()
Seed = Annotated[int, typer.Option(help="Of arrivals, vectors and prompts.")]


@commands.command("latency")
def latency(
    url: Url = "http://127.0.0.1:8000",
    api_key: ApiKey = "",
    method: Annotated[
        list[str] | None, typer.Option(help="Only these; repeatable. Without: all that are offered.")
    ] = None,
    rate: Annotated[
        list[float] | None, typer.Option(min=0.01, help="Requests per second; repeatable. Default 1.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Measured at each rate and method.")] = 60.0,
    rounds: Annotated[int, typer.Option(min=1, help="Of all methods and rates, interleaved.")] = 1,
    find_rate: Annotated[
        bool, typer.Option("--find-rate", help="Look for each method's highest sustained rate too.")
    ] = False,
    arrivals: Annotated[Arrivals, typer.Option(help="Gaps between requests.")] = Arrivals.POISSON,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of every answer.")] = 64,
    blend: Annotated[int, typer.Option(min=1, help="Most cultures in one vector.")] = 3,
    culture: OnlyCultures = None,
    timeout_seconds: Annotated[float, typer.Option(min=1, help="Of one request.")] = 120.0,
    out: Annotated[Path, typer.Option(help=REPORTS)] = Path("out/latency"),
    seed: Seed = 20261122,
) -> None:
    """Latency of streams at fixed rates, by method, with another vector in every request."""
    from steer_server.evaluation.load.latency import LatencyOptions, evaluate_latency

    evaluate_latency(
        LatencyOptions(
            url=url,
            api_key=api_key,
            methods=tuple(method or ()),
            rates=tuple(rate or (1.0,)),
            seconds=seconds,
            rounds=rounds,
            find_rate=find_rate,
            arrivals=arrivals,
            max_tokens=max_tokens,
            blend=blend,
            cultures=tuple(culture or ()),
            timeout_seconds=timeout_seconds,
            seed=seed,
        ),
        out,
    )


@commands.command("soak")
def soak(
    url: Url = "http://127.0.0.1:8000",
    api_key: ApiKey = "",
    minutes: Annotated[float, typer.Option(min=0.01, help="Of the mixed load.")] = 10.0,
    rate: Annotated[
        float,
        typer.Option(min=0, help="Requests per second; 0: the highest sustained one, looked for first."),
    ] = 0.0,
    search_seconds: Annotated[float, typer.Option(min=1, help="Of each rate that is tried.")] = 60.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of every answer.")] = 48,
    oversized_mib: Annotated[float, typer.Option(min=0.1, help="Of a body that must be refused.")] = 32.0,
    pause_seconds: Annotated[
        float, typer.Option(min=0, help="Of a slow reader, between two lines of a stream.")
    ] = 0.2,
    hang_seconds: Annotated[
        float, typer.Option(min=1, help="A request that has not ended by then hangs.")
    ] = 120.0,
    settle_seconds: Annotated[
        float, typer.Option(min=0, help="Longest time after the load until all is given back.")
    ] = 30.0,
    blend: Annotated[int, typer.Option(min=1, help="Most cultures in one vector.")] = 3,
    culture: OnlyCultures = None,
    out: Annotated[Path, typer.Option(help=REPORTS)] = Path("out/soak"),
    seed: Seed = 20261122,
) -> None:
    """Minutes of mixed load: slow readers, cancelled streams, oversized bodies and bad requests among good
    ones. Fails when something hangs, leaks or is answered wrongly."""
    from steer_server.evaluation.load.soak import SoakOptions, evaluate_soak

    evaluate_soak(
        SoakOptions(
            url=url,
            api_key=api_key,
            minutes=minutes,
            rate=rate,
            search_seconds=search_seconds,
            max_tokens=max_tokens,
            oversized_bytes=int(oversized_mib * 2**20),
            pause_seconds=pause_seconds,
            hang_seconds=hang_seconds,
            settle_seconds=settle_seconds,
            blend=blend,
            cultures=tuple(culture or ()),
            seed=seed,
        ),
        out,
    )


@commands.command("metrics-cost")
def metrics_cost(
    url: Url = "http://127.0.0.1:8000",
    api_key: ApiKey = "",
    streams: Annotated[int, typer.Option(min=1, help="Streams under way at once.")] = 32,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of load.")] = 60.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of every answer.")] = 64,
    blend: Annotated[int, typer.Option(min=1, help="Most cultures in one vector.")] = 3,
    out: Annotated[Path, typer.Option(help=REPORTS)] = Path("out/metrics-cost"),
    seed: Seed = 20261122,
) -> None:
    """By how much a server's own metrics can slow it down, at most. Run it on the server's machine."""
    from steer_server.evaluation.load.metrics_cost import MetricsCostOptions, evaluate_metrics_cost

    options = MetricsCostOptions(url, api_key, streams, seconds, max_tokens, blend, seed)
    evaluate_metrics_cost(options, out)
