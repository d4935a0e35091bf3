"""Plots of `eval frozen`: who wins, and what is gained for the time it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steer_server.evaluation.frozen.ways import NOISE, PLAIN
from steer_server.evaluation.html import COLOURS, INK, new_figure


def win_rates(rows: Mapping[str, Any]) -> Any:
    """Every way against the plain model, and what no difference looks like."""
    names = [name for name in rows if name != PLAIN]
    figure = new_figure(8.0, 1.2 + 0.4 * len(names))
    (axes,) = figure.axes
    for at, name in enumerate(names):
        found = rows[name]["against_plain"]
        rate, (low, high) = found["win_rate"], found["win_rate_95"]
        colour = COLOURS[6] if name == NOISE else COLOURS[0]
        axes.errorbar([rate], [at], xerr=[[rate - low], [high - rate]], fmt="o", color=colour, capsize=3)
    axes.axvline(0.5, linestyle="--", color=INK, linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"win rate against {PLAIN}, by the judge", color=INK)
    axes.invert_yaxis()
    return figure


def reward_by_latency(rows: Mapping[str, Any]) -> Any:
    """What is gained for the time: up and to the left is better."""
    figure = new_figure(8.0, 4.5)
    (axes,) = figure.axes
    timed = {name: row for name, row in rows.items() if "p50_seconds" in row["latency"]}
    for number, (name, row) in enumerate(timed.items()):
        reward, seconds = row["judge_reward"], row["latency"]["p50_seconds"]
        low, high = reward["interval_95"]
        # A resampled interval may miss the estimate itself by rounding.
        bars = [[max(0.0, reward["mean"] - low)], [max(0.0, high - reward["mean"])]]
        colour = COLOURS[number % len(COLOURS)]
        axes.errorbar([seconds], [reward["mean"]], yerr=bars, fmt="o", color=colour, capsize=3)
        axes.annotate(
            name, (seconds, reward["mean"]), (6, 4), textcoords="offset points", color=INK, fontsize=8
        )
    axes.set_xlabel("median latency, s", color=INK)
    axes.set_ylabel("judge's reward", color=INK)
    return figure
