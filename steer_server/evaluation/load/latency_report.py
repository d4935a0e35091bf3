"""The report of `bench latency`: percentiles by method and rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from steer_server.evaluation.html import COLOURS, Section, Table, add_legend, new_figure
from steer_server.evaluation.load.latency import LatencyOptions, LatencyRun, Timed
from steer_server.evaluation.load.open_loop import Window

PERCENTILES = (50, 90, 95, 99)
CLOCKS: Mapping[str, tuple[str, Callable[[Timed], float | None]]] = {
    "first_token_seconds": ("first token", lambda one: one.first_token_seconds),
    "token_seconds": ("per output token", lambda one: one.token_seconds),
    "seconds": ("whole answer", lambda one: one.seconds),
}
"""Key in the JSON -> its name, and what it reads."""
FEW = 100
"""Of fewer requests the p99 says no more than the slowest of them."""


def latency_results(run: LatencyRun, options: LatencyOptions) -> dict[str, Any]:
    """What is written to report.json."""
    return {
        "server": run.server.describe(),
        "options": options.describe(),
        "runs": [
            {"method": method, "rate": rate, **describe_windows(windows)}
            for (method, rate), windows in run.windows.items()
        ],
        "sustained": {
            method: {
                "rate": rate,
                "tried": [
                    {"rate": window.rate, "is_sustained": window.is_sustained, **describe_windows([window])}
                    for window in tried
                ],
            }
            for method, (rate, tried) in run.sustained.items()
        },
    }


def describe_windows(windows: Sequence[Window[Timed]]) -> dict[str, Any]:
    """All rounds at one rate together. Latencies are of answered requests, in seconds; `errors` counts the
    others by code."""
    measured = [one for window in windows for one in window.measured]
    answered = [one for one in measured if not one.problem]
    seconds = sum(window.seconds for window in windows)
    return {
        "sent": len(measured),
        "answered": len(answered),
        "errors": dict(Counter(one.problem for one in measured if one.problem)),
        "sent_per_second": round(len(measured) / seconds, 3),
        "finished_per_second": round(sum(window.num_finished for window in windows) / seconds, 3),
        "tokens_per_answer": round(sum(one.num_tokens for one in answered) / max(1, len(answered)), 1),
        "plans": len({one.plan for one in answered}),
        "late_p99_seconds": percentiles([one.began - one.due for one in measured])["p99"],
        **{
            key: percentiles([value for one in answered if (value := read(one)) is not None])
            for key, (_, read) in CLOCKS.items()
        },
    }


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """p50, p90, p95, p99 and max; None of nothing."""
    if not values:
        return dict.fromkeys([*(f"p{p}" for p in PERCENTILES), "max"])
    found = np.percentile(values, PERCENTILES)
    named = {f"p{p}": round(float(value), 5) for p, value in zip(PERCENTILES, found, strict=True)}
    return {**named, "max": round(max(values), 5)}


def headline(results: Mapping[str, Any]) -> dict[str, Any]:
    """The one line: median and p95 of the whole answer and the first token at the highest rate, by method."""
    highest = max(run["rate"] for run in results["runs"])
    return {
        "rate": highest,
        "p50_p95_seconds": {
            run["method"]: {key: [run[key]["p50"], run[key]["p95"]] for key in CLOCKS}
            for run in results["runs"]
            if run["rate"] == highest
        },
        "sustained_rate": {method: found["rate"] for method, found in results["sustained"].items()},
    }


def tables(results: Mapping[str, Any]) -> list[Table]:
    found = [_counts_table(results), *(_clock_table(results, key) for key in CLOCKS)]
    return [*found, _sustained_table(results)] if results["sustained"] else found


def sections(results: Mapping[str, Any]) -> list[Section]:
    counts, *clocks = tables(results)[: 1 + len(CLOCKS)]
    found = [
        Section(
            "Requests",
            "Every request is sent when it is due, whatever became of earlier ones, and its times count from "
            "then. Late: by how much the measuring side missed that, which is part of all times.",
            [counts],
        )
    ]
    for (key, (name, _)), table in zip(CLOCKS.items(), clocks, strict=True):
        found.append(Section(name.capitalize(), tables=[table], figures=[_figure(results, key)]))
    if results["sustained"]:
        text = (
            "A rate is sustained when at least 99 % of its requests end as they should, and as many end in "
            "the window as are due in it, less 10 %. Rates nearer than a factor of 1.2 are not told apart."
        )
        found.append(Section("Highest sustained rate", text, [_sustained_table(results)]))
    return found


def _counts_table(results: Mapping[str, Any]) -> Table:
    rows = [
        [
            run["method"],
            f"{run['rate']:g}",
            f"{run['sent_per_second']:.2f}",
            f"{run['finished_per_second']:.2f}",
            str(run["answered"]),
            _errors(run["errors"]),
            f"{run['tokens_per_answer']:g}",
            str(run["plans"]),
            _milliseconds(run["late_p99_seconds"]),
        ]
        for run in results["runs"]
    ]
    header = ["method", "rate/s", "sent/s", "finished/s", "answered", "errors", "tokens", "plans"]
    return Table([*header, "late p99 ms"], rows)


def _clock_table(results: Mapping[str, Any], key: str) -> Table:
    rows = [
        [run["method"], f"{run['rate']:g}", *(_milliseconds(value) for value in run[key].values())]
        for run in results["runs"]
    ]
    few = min((run["answered"] for run in results["runs"]), default=0) < FEW
    caption = f"{CLOCKS[key][0].capitalize()}, ms"
    caption += f"; of fewer than {FEW} requests p99 is about the slowest" if few else ""
    return Table(["method", "rate/s", *(f"p{p}" for p in PERCENTILES), "max"], rows, caption)


def _sustained_table(results: Mapping[str, Any]) -> Table:
    rows = []
    for method, found in results["sustained"].items():
        for tried in sorted(found["tried"], key=lambda one: float(one["rate"])):
            rows.append(
                [
                    method,
                    f"{tried['rate']:.3g}",
                    "yes" if tried["is_sustained"] else "no",
                    f"{tried['sent_per_second']:.2f}",
                    f"{tried['finished_per_second']:.2f}",
                    _errors(tried["errors"]),
                    _milliseconds(tried["first_token_seconds"]["p95"]),
                    _milliseconds(tried["seconds"]["p95"]),
                ]
            )
    header = ["method", "rate/s", "sustained", "sent/s", "finished/s", "errors"]
    return Table([*header, "first token p95 ms", "whole p95 ms"], rows)


def _errors(errors: Mapping[str, int]) -> str:
    return ", ".join(f"{code} {count}" for code, count in sorted(errors.items())) or "none"


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds * 1000:.1f}" if seconds < 0.1 else f"{seconds * 1000:.0f}"


def _figure(results: Mapping[str, Any], key: str) -> Any:
    """Median and p95 over the rate."""
    figure = new_figure()
    (axes,) = figure.axes
    methods = list(dict.fromkeys(run["method"] for run in results["runs"]))
    for colour, method in zip(COLOURS, methods, strict=False):
        runs = [run for run in results["runs"] if run["method"] == method and run[key]["p50"] is not None]
        runs.sort(key=lambda run: float(run["rate"]))
        for percentile, line in (("p50", "-"), ("p95", "--")):
            values = [run[key][percentile] * 1000 for run in runs]
            rates = [run["rate"] for run in runs]
            axes.plot(rates, values, line, marker="o", color=colour, label=f"{method} {percentile}")
    axes.set_xlabel("requests per second")
    axes.set_ylabel(f"{CLOCKS[key][0]}, ms")
    axes.set_ylim(bottom=0)
    add_legend(figure, columns=max(1, len(methods)))
    return figure
