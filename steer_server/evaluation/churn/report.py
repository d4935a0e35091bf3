"""The report of a churn: verdicts, tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from steer_server.evaluation.churn.churn import CHURN, QUIET, ChurnOptions, ChurnRun
from steer_server.evaluation.html import (
    COLOURS,
    WIDTH_OF_FILES,
    Section,
    Table,
    add_legend,
    new_figure,
    write_page,
)
from steer_server.evaluation.report import provenance, write_report
from steer_server.evaluation.server_memory import is_flat
from steer_server.evaluation.verdicts import Verdict, verdict_table

MAX_GAP_RATIO = 2.0
"""p99 of the gaps between tokens during churn, to that of the quiet phase."""
MAX_LISTED_FAILURES = 200
TITLE = "Adapters changed under load"


def churn_results(run: ChurnRun, options: ChurnOptions) -> dict[str, Any]:
    """What is written to report.json, verdicts included."""
    load = run.load
    gaps = {phase: describe_seconds(by_stream) for phase, by_stream in sorted(load.gaps.items())}
    quiet, churn = gaps.get(QUIET), gaps.get(CHURN)
    results: dict[str, Any] = {
        "server": run.server.describe(),
        "options": options.describe(),
        "requests": {
            "answered": dict(load.num_answered),
            "refused": dict(load.num_refused),
            "refusal_codes": dict(load.refusal_codes),
            "failed": len(load.failures),
        },
        "gaps": gaps,
        "gap_ratio_p99": churn["p99"] / quiet["p99"] if quiet and churn and quiet["p99"] else None,
        "first_token_seconds": {
            phase: percentiles(values) for phase, values in sorted(load.first_tokens.items())
        },
        "acts": {
            kind.value: {"count": len(values), **percentiles(values)}
            for kind, values in sorted(run.operator.seconds.items())
        },
        "texts": run.texts and run.texts.describe(),
        "memory": run.memory,
        "in_use": run.in_use,
        "failures": [failure.describe() for failure in load.failures[:MAX_LISTED_FAILURES]],
    }
    return results | {"verdicts": [asdict(verdict) for verdict in verdicts(results)]}


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p99 and max, in seconds."""
    if not values:
        return {"p50": 0.0, "p99": 0.0, "max": 0.0}
    p50, p99 = np.percentile(values, [50, 99])
    return {"p50": round(float(p50), 5), "p99": round(float(p99), 5), "max": round(max(values), 5)}


def describe_seconds(by_stream: Mapping[int, Sequence[float]]) -> dict[str, Any]:
    """Percentiles of all streams' gaps together, and of each stream's own."""
    pooled = [gap for gaps in by_stream.values() for gap in gaps]
    each = {stream: percentiles(gaps) for stream, gaps in sorted(by_stream.items())}
    return {"count": len(pooled), **percentiles(pooled), "streams": each}


def verdicts(results: Mapping[str, Any]) -> list[Verdict]:
    """Each thing that must be seen, from the results alone."""
    num_acts = sum(act["count"] for act in results["acts"].values())
    answered = sum(results["requests"]["answered"].values())
    kinds = sorted({failure["kind"] for failure in results["failures"]})
    failed = results["requests"]["failed"]
    found = [
        Verdict(
            "nothing_failed",
            failed == 0 and answered > 0,
            f"{failed} failures {kinds} in {answered} answers beside {num_acts} acts",
        ),
        _texts_verdict(results["texts"]),
    ]
    ratio = results["gap_ratio_p99"]
    found.append(
        Verdict(
            "gaps",
            None if ratio is None else ratio <= MAX_GAP_RATIO,
            "no gaps were measured" if ratio is None else f"p99 is {ratio:.2f} times that of the quiet phase",
        )
    )
    return [*found, memory_verdict(results["memory"]), given_back_verdict(results["in_use"])]


def memory_verdict(memory: Mapping[str, Any] | None) -> Verdict:
    """Of what `MemorySampler.describe` says."""
    if memory is None:
        return Verdict("memory_flat", None, "the server's processes are not on this machine")
    total = memory["total"]
    return Verdict(
        "memory_flat",
        is_flat(total),
        f"{total['before_mib']:.0f} -> {total['after_mib']:.0f} MiB, second half "
        f"{total['second_half_growth_mib']:+.1f} MiB",
    )


RESIDENT, ACTIVE = "steer_slots_resident", "steer_adapters_active"


def given_back_verdict(in_use: Mapping[str, tuple[float | None, float | None]]) -> Verdict:
    """Gauges of the server's metrics, before and after: none has risen, and no slot holds what is not active.
    The bank's size never changes and shows nothing. A gauge that was not there before was 0."""
    gauges = {
        key: (pair[0] or 0.0, pair[1] or 0.0) for key, pair in in_use.items() if key.startswith("steer_")
    }
    risen = {key: pair for key, pair in gauges.items() if pair[1] > pair[0]}
    # Adapters that were asked for meanwhile may lie in slots, if they are active.
    resident, active = (gauges.get(key, (0.0, 0.0))[1] for key in (RESIDENT, ACTIVE))
    if resident <= active:
        risen.pop(RESIDENT, None)
    named = ", ".join(f"{key} {before:g} -> {after:g}" for key, (before, after) in gauges.items())
    said = f"risen: {risen}" if risen else named or "the server says nothing"
    return Verdict("all_given_back", not risen if gauges else None, said)


def _texts_verdict(texts: Mapping[str, Any] | None) -> Verdict:
    """Shown when all are equal. Where batching alone changes unsteered texts too, an unequal text is no
    proof of anything but for one that is the other version's."""
    name = "one_version_per_answer"
    if texts is None or texts["steered_equal_share"] is None:
        return Verdict(name, None, "no text was checked")
    steered, unsteered = texts["steered_equal_share"], texts["unsteered_equal_share"]
    told = f"{steered:.1%} of steered texts are those of their version alone"
    if unsteered is not None:
        told += f", {unsteered:.1%} of unsteered ones are what they are in a quiet batch"
    if texts["of_another_version"]:
        return Verdict(name, False, f"{texts['of_another_version']} texts are of another version; {told}")
    if steered == 1.0:
        return Verdict(name, True, told)
    if unsteered is None or unsteered == 1.0:
        return Verdict(name, False, told)
    return Verdict(name, None, f"{told}: compare exactly on a float32 server")


def write_churn(results: dict[str, Any], out: Path, key: str) -> None:
    """Writes `report.json` and `report.html` without the key, and prints tables and verdicts."""
    source = {**provenance(), "server": results["server"]["url"]}
    if key:
        source["command"] = source["command"].replace(key, "***")
    write_report(out / "report.json", {"command": source["command"], **results})
    tables = [
        verdict_table(verdicts(results)),
        _gap_table(results),
        _act_table(results),
        memory_table(results["memory"], "acts"),
    ]
    failures = Table(
        ["kind", "phase", "what"],
        [[one["kind"], one["phase"], one["detail"]] for one in results["failures"]],
        "" if results["failures"] else "none",
    )
    sections = [
        Section("What was to be shown", tables=tables[:1]),
        Section("Gaps between tokens", tables=tables[1:2], figures=[_gap_figure(results)]),
        Section("Acts", tables=tables[2:3]),
        Section("Memory", tables=tables[3:], figures=memory_figures(results["memory"], "act")),
        Section("Failures", tables=[failures]),
    ]
    write_page(out / "report.html", TITLE, source, sections)
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_FILES
    for table in [*tables, *([failures] if results["failures"] else [])]:
        console.print(table.for_console())


def _gap_table(results: Mapping[str, Any]) -> Table:
    rows = []
    for phase in (QUIET, CHURN):
        gaps = results["gaps"].get(phase)
        if gaps is None:
            continue
        worst = max((one["p99"] for one in gaps["streams"].values()), default=0.0)
        first = results["first_token_seconds"].get(phase, percentiles([]))
        seconds = [gaps["p50"], gaps["p99"], gaps["max"], worst, first["p50"], first["p99"]]
        requests = results["requests"]
        rows.append(
            [phase, str(requests["answered"].get(phase, 0)), str(requests["refused"].get(phase, 0))]
            + [f"{value * 1000:.0f}" for value in seconds]
        )
    header = ["phase", "answered", "refused", "gap p50 ms", "p99", "max", "worst stream's p99"]
    return Table([*header, "first token p50 ms", "p99"], rows)


def _act_table(results: Mapping[str, Any]) -> Table:
    rows = [
        [kind, str(act["count"]), *(f"{act[key] * 1000:.0f}" for key in ("p50", "p99", "max"))]
        for kind, act in results["acts"].items()
    ]
    caption = "Removing waits for running requests; what activates a version probes it in the engine."
    return Table(["act", "times", "p50 ms", "p99", "max"], rows, caption)


def memory_table(memory: Mapping[str, Any] | None, unit: str) -> Table:
    """Args: unit: what the slope is per hundred of."""
    every = {} if memory is None else memory["processes"] | {"all": memory["total"]}
    keys = ("before_mib", "after_mib", "second_half_growth_mib", "slope_mib_per_100")
    rows = [[name, *(f"{one[key]:.1f}" for key in keys)] for name, one in every.items()]
    return Table(["process", "before MiB", "after", "growth of second half", f"slope per 100 {unit}"], rows)


def _gap_figure(results: Mapping[str, Any]) -> Any:
    figure = new_figure()
    (axes,) = figure.axes
    for colour, phase in zip(COLOURS, (QUIET, CHURN), strict=False):
        streams = results["gaps"].get(phase, {"streams": {}})["streams"]
        for key, marker in (("p50", "."), ("p99", "x"), ("max", "^")):
            values = [one[key] * 1000 for one in streams.values()]
            axes.plot(list(streams), values, marker, color=colour, label=f"{phase} {key}")
    axes.set_xlabel("stream")
    axes.set_ylabel("gap between tokens, ms")
    axes.set_yscale("symlog", linthresh=1.0)
    add_legend(figure, columns=3)
    return figure


def memory_figures(memory: Mapping[str, Any] | None, unit: str) -> list[Any]:
    """RSS over time; none without samples."""
    if memory is None:
        return []
    figure = new_figure()
    (axes,) = figure.axes
    for number, (name, values) in enumerate(memory["series"]["mib"].items()):
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(memory["series"]["seconds"], values, color=colour, label=name)
    axes.set_xlabel(f"seconds since the first {unit}")
    axes.set_ylabel("RSS, MiB")
    axes.set_ylim(bottom=0)
    add_legend(figure, columns=2)
    return [figure]
