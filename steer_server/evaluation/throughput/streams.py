"""`bench streams`: many streams at once over HTTP, from stock vLLM's own server without LoRA and from ours.

Both servers are up and asked in turns. A steered request has a blend of its own. Tokens per second count from
the first request to the last answer's end, so first tokens are in them.
"""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from steer_server.evaluation.html import COLOURS, Section, Table, new_figure, write_all
from steer_server.evaluation.overhead.asking import WAYS, Asker, Cost, Load, Way
from steer_server.evaluation.overhead.servers import OURS, MeasuredServer, StartServers, blended, both_servers
from steer_server.evaluation.report import Results, commit
from steer_server.evaluation.throughput.throughput import MOST_FIRST_TOKEN
from steer_server.evaluation.verdicts import Verdict, check_shown, verdict_table
from steer_server.progress import Progress
from steer_server.settings import Settings

ANSWERS_PER_STREAM = 2
"""In a round, one after the other."""
STREAMED = tuple(way for way in WAYS if way.is_streamed)
STOCK_WAY, _, STEERED_WAY = STREAMED
LEAST_SPEED = 0.9


@dataclass(frozen=True)
class StreamsOptions:
    streams: int = 32
    num_tokens: int = 64
    """Of each answer."""
    rounds: int = 5
    """Of all ways, interleaved; figures are medians."""


def evaluate_streams(
    options: StreamsOptions,
    settings: Settings,
    vllm_arguments: Sequence[str],
    out: Path,
    start: StartServers = both_servers,
) -> None:
    """Starts both servers, measures, prints tables and one line of JSON, and writes `out/report.json` and
    `out/report.html`.

    Args:
        vllm_arguments: that both servers get.
        start: what starts them, and stops them when it ends.

    Raises: EvaluationError when a server does not start or answer, and, after the report is written, when
        something that is to be shown is not.
    """
    commit()
    settings, _, catalogue = blended(settings)
    with start(settings, vllm_arguments, out) as servers:
        results = asyncio.run(run_streams(options, servers, sorted(catalogue.cultures)))
    results["server"] = {"model": servers[OURS].model, "vllm_arguments": list(vllm_arguments)}
    found = verdicts(results)
    results["verdicts"] = [asdict(verdict) for verdict in found]
    tables = [verdict_table(found), ways_table(results)]
    write_all(out, "Streams over HTTP", results, [_section(results, tables)], tables)
    print(json.dumps({label: one["ratio"] for label, one in results["ways"].items()}))
    check_shown(found, out)


async def run_streams(
    options: StreamsOptions, servers: Mapping[str, MeasuredServer], cultures: Sequence[str]
) -> Results:
    """Medians over rounds; ratios to the stock server are taken within a round. Raises: EvaluationError."""
    load = Load(servers[OURS].model, cultures, options.num_tokens, options.streams)
    askers = {name: Asker(server, load) for name, server in servers.items()}
    rounds: list[dict[Way, Cost]] = []
    num_answers = options.streams * ANSWERS_PER_STREAM
    with Progress("streams", (options.rounds + 1) * len(STREAMED), "ways") as progress:
        for first in range(0, (options.rounds + 1) * num_answers, num_answers):
            rounds.append({})
            for way in STREAMED:
                rounds[-1][way] = await askers[way.server].measure(
                    range(first, first + num_answers), is_steered=way.is_steered, is_streamed=True
                )
                progress.advance(note=way.label)
    measured = rounds[1:]  # the first fills caches and loads slots
    return {
        "options": asdict(options),
        "ways": {way.label: _measures(way, measured, options.num_tokens) for way in STREAMED},
    }


def _measures(way: Way, rounds: Sequence[Mapping[Way, Cost]], num_tokens: int) -> dict[str, Any]:
    def of_each(read: Callable[[Mapping[Way, Cost]], float]) -> list[float]:
        return [round(read(costs), 3) for costs in rounds]

    ratios = of_each(lambda costs: costs[STOCK_WAY].wall_ms / costs[way].wall_ms)
    speeds = of_each(lambda costs: 1000 * num_tokens / costs[way].wall_ms)
    first = of_each(lambda costs: _first_token_ms(costs[way]))
    first_ratios = of_each(lambda costs: _first_token_ms(costs[way]) / _first_token_ms(costs[STOCK_WAY]))
    return {
        "tokens_per_second": statistics.median(speeds),
        "ratio": statistics.median(ratios),
        "first_token_ms": statistics.median(first),
        "first_token_ratio": statistics.median(first_ratios),
        "all_ratios": ratios,
        "all_first_token_ratios": first_ratios,
    }


def _first_token_ms(cost: Cost) -> float:
    assert cost.first_token_ms is not None
    return cost.first_token_ms


def verdicts(results: Mapping[str, Any]) -> list[Verdict]:
    """The goals of DESIGN, of streams that all have blends of their own."""
    steered = results["ways"][STEERED_WAY.label]
    speed, first = steered["ratio"], steered["first_token_ratio"]
    return [
        Verdict("speed", speed >= LEAST_SPEED, f"{speed:.3f} of stock's; at least {LEAST_SPEED}"),
        Verdict(
            "first_token", first <= MOST_FIRST_TOKEN, f"{first:.3f} of stock's; at most {MOST_FIRST_TOKEN}"
        ),
    ]


def ways_table(results: Mapping[str, Any]) -> Table:
    rows = [
        [
            label,
            f"{one['tokens_per_second']:.0f}",
            f"{one['ratio']:.2f}",
            f"{min(one['all_ratios']):.2f} to {max(one['all_ratios']):.2f}",
            f"{one['first_token_ms']:.0f}",
            f"{one['first_token_ratio']:.2f}",
            f"{min(one['all_first_token_ratios']):.2f} to {max(one['all_first_token_ratios']):.2f}",
        ]
        for label, one in results["ways"].items()
    ]
    header = ["way", "tokens/s", "ratio", "of rounds", "first token ms", "ratio", "of rounds"]
    caption = f"{results['options']['streams']} streams at once; ratios to stock vLLM's server without LoRA"
    return Table(header, rows, caption)


def _section(results: Mapping[str, Any], tables: Sequence[Table]) -> Section:
    text = (
        "Both servers are up and asked in turns; tokens per second have first tokens in them. The first "
        "token's time is a stream's own, the median over streams. Medians over rounds, dots: rounds."
    )
    figure = new_figure()
    (axes,) = figure.axes
    ways = list(results["ways"].items())[::-1]
    axes.barh([label for label, _ in ways], [one["ratio"] for _, one in ways], color=COLOURS[0])
    for height, (_, one) in enumerate(ways):
        axes.plot(one["all_ratios"], [height] * len(one["all_ratios"]), ".", color=COLOURS[1])
    axes.set_xlabel("tokens per second, ratio to stock vLLM's server without LoRA")
    return Section("Streams", text, tables, [figure])
