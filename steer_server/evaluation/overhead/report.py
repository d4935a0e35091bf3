"""What `bench overhead` shows: verdicts, tables and plots, from its results alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steer_server.evaluation.html import COLOURS, Section, Table, add_legend, new_figure
from steer_server.evaluation.overhead.planning_cost import STEPS, TARGET_US
from steer_server.evaluation.overhead.servers import OURS, STOCK
from steer_server.evaluation.verdicts import Verdict, verdict_table

MAX_ADDED_MIB = 150 * 10**6 / 2**20
"""150 MB: what the API process may take beyond stock's."""
MAX_GROWTH_MIB = 2.0
"""In the second half of the plans, or three times the noise if that is more: allocators keep some pages."""


def verdicts(results: Mapping[str, Any]) -> list[Verdict]:
    """Each thing that must be seen. CPU time has no bound of its own: it is reported."""
    added = added_mib(results)
    bank = results["bank"]
    slowest = max((sizes["all"] for sizes in results["planning"]["by_adapters"].values()), key=_median)
    return [
        Verdict("api_memory", added <= MAX_ADDED_MIB, f"{added:+.0f} MiB; at most {MAX_ADDED_MIB:.0f}"),
        Verdict(
            "bank_bytes",
            bank["bytes"] == bank["formula_bytes"],
            f"{bank['bytes']:,} of {bank['formula_bytes']:,} by the formula",
        ),
        _flat_verdict(results["plans"]),
        Verdict(
            "planning",
            slowest["p50"] <= TARGET_US,
            f"median {slowest['p50']:.0f} µs, p99 {slowest['p99']:.0f} µs; at most {TARGET_US:.0f} µs",
        ),
    ]


def added_mib(results: Mapping[str, Any]) -> float:
    """Resident memory of our API process less that of stock's, after all rounds."""
    after = results["memory"]["after_rounds"]
    return float(after[OURS]["API"] - after[STOCK]["API"])


def _median(one: Mapping[str, float]) -> float:
    return one["p50"]


def _flat_verdict(plans: Mapping[str, Any] | None) -> Verdict:
    name = "flat_over_plans"
    if plans is None:
        return Verdict(name, None, "no plans were asked for")
    trends = plans["trends"]
    if None in trends.values():
        return Verdict(name, None, f"{plans['plans']} plans are too few")
    told = ", ".join(
        f"{process} {one['growth']:+.2f} MiB (noise {one['noise']:.2f})" for process, one in trends.items()
    )
    is_flat = all(one["is_flat"] for one in trends.values())
    return Verdict(name, is_flat, f"{plans['plans']} plans, growth in the second half: {told}")


def tables(results: Mapping[str, Any]) -> list[Table]:
    return [
        verdict_table(verdicts(results)),
        cpu_table(results),
        memory_table(results),
        *([plans_table(results["plans"])] if results["plans"] else []),
        planning_table(results["planning"]),
    ]


def cpu_table(results: Mapping[str, Any]) -> Table:
    options, cpu = results["options"], results["cpu"]
    rows = []
    for label, one in cpu.items():
        stock = next(
            other
            for other in cpu.values()
            if (other["server"], other["is_streamed"]) == (STOCK, one["is_streamed"])
        )
        added = "" if one is stock else f"{one['api_ms'] - stock['api_ms']:+.2f}"
        spread = f"{min(one['all_api_ms']):.2f} to {max(one['all_api_ms']):.2f}"
        rows.append(
            [label, f"{one['api_ms']:.2f}", spread, added, f"{one['engine_ms']:.1f}", f"{one['wall_ms']:.1f}"]
        )
    idle = ", ".join(f"{name} {ms:g}" for name, ms in results["idle_ms_per_second"].items())
    return Table(
        ["CPU ms per request", "API process", "rounds", "added", "engine", "wall"],
        rows,
        f"{options['rounds']} interleaved rounds of {options['requests']} chats of {options['num_tokens']} "
        f"tokens, {options['concurrency']} at a time; medians. Idle, CPU ms per second: {idle}",
    )


def memory_table(results: Mapping[str, Any]) -> Table:
    memory, bank = results["memory"], results["bank"]
    rows = [
        [f"{name}, {process}", f"{memory['started'][name][process]:.0f}", f"{mib:.0f}"]
        for name, processes in memory["after_rounds"].items()
        for process, mib in processes.items()
    ]
    return Table(
        ["resident MiB", "started", "after all rounds"],
        rows,
        f"Bank: {bank['slots']} slots of rank {bank['rank']}, {bank['bytes']:,} bytes",
    )


def plans_table(plans: Mapping[str, Any]) -> Table:
    rows = [
        [
            process,
            *(f"{plans['mib'][process][at]:.1f}" for at in (0, len(plans["done"]) // 2, -1)),
            *((f"{one['growth']:+.2f}", f"{one['noise']:.2f}") if one else ("", "")),
        ]
        for process, one in plans["trends"].items()
    ]
    header = ["MiB over plans", "before", "half-way", "after", "growth of second half", "noise"]
    return Table(header, rows, f"{plans['plans']:,} distinct plans, one token each")


def planning_table(planning: Mapping[str, Any]) -> Table:
    sizes = planning["by_adapters"]
    rows = [
        [told, *(f"{found[step][key]:.0f}" for found in sizes.values() for key in ("p50", "p99"))]
        for step, told in (*STEPS.items(), ("all", "all"))
    ]
    header = ["planning, µs", *(f"{size} adapters: {key}" for size in sizes for key in ("p50", "p99"))]
    return Table(header, rows, f"{planning['rounds']} different blends of each size")


def sections(results: Mapping[str, Any]) -> list[Section]:
    found = [
        Section("What was to be shown", tables=[verdict_table(verdicts(results))]),
        Section(
            "CPU time",
            "Of the process with the HTTP part, per request, from the system's own count. Steered requests "
            "each have a blend of their own. Both servers are up and asked in turn.",
            [cpu_table(results)],
            [_cpu_figure(results)],
        ),
        Section("Memory", tables=[memory_table(results)]),
        Section("Planning", "In this process, without a server.", [planning_table(results["planning"])]),
    ]
    if plans := results["plans"]:
        found.insert(3, Section("Many plans", "", [plans_table(plans)], [_plans_figure(plans)]))
    return found


def _cpu_figure(results: Mapping[str, Any]) -> Any:
    figure = new_figure()
    (axes,) = figure.axes
    ways = list(results["cpu"].items())[::-1]
    axes.barh([label for label, _ in ways], [one["api_ms"] for _, one in ways], color=COLOURS[0])
    for height, (_, one) in enumerate(ways):
        axes.plot(one["all_api_ms"], [height] * len(one["all_api_ms"]), ".", color=COLOURS[1])
    axes.set_xlabel("CPU ms of the API process per request; dots: rounds")
    return figure


def _plans_figure(plans: Mapping[str, Any]) -> Any:
    figure = new_figure()
    (axes,) = figure.axes
    for colour, (process, values) in zip(COLOURS, plans["mib"].items(), strict=False):
        axes.plot(plans["done"], [value - values[0] for value in values], ".-", color=colour, label=process)
    axes.set_xlabel("distinct plans")
    axes.set_ylabel("resident memory beyond the first, MiB")
    add_legend(figure, columns=2)
    return figure
