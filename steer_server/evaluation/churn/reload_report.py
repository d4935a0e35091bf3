"""The report of a reload: verdicts, tables, and memory over the cycles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from steer_server.evaluation.churn.report import (
    given_back_verdict,
    memory_figures,
    memory_table,
    memory_verdict,
)
from steer_server.evaluation.html import WIDTH_OF_FILES, Section, Table, write_page
from steer_server.evaluation.report import provenance, write_report
from steer_server.evaluation.verdicts import Verdict, verdict_table

TITLE = "Adapters loaded and unloaded"


def verdicts(results: Mapping[str, Any]) -> list[Verdict]:
    """Each thing that must be seen, from the results alone."""
    failed, cycles = results["failed"], results["cycles"]
    return [
        Verdict("nothing_failed", failed == 0 and cycles > 0, f"{failed} failures in {cycles} cycles"),
        Verdict(
            "same_texts",
            results["other_texts"] == 0,
            f"{results['other_texts']} texts differ from the first of their adapter",
        ),
        memory_verdict(results["memory"]),
        given_back_verdict(results["in_use"]),
    ]


def write_reload(results: dict[str, Any], found: Sequence[Verdict], out: Path, key: str) -> None:
    """Writes `report.json` and `report.html` without the key, and prints tables and verdicts."""
    source = {**provenance(), "server": results["server"]["url"]}
    if key:
        source["command"] = source["command"].replace(key, "***")
    described = {"verdicts": [asdict(verdict) for verdict in found]}
    write_report(out / "report.json", {"command": source["command"], **results, **described})
    rows = [
        [way, *(f"{values[key] * 1000:.0f}" for key in ("p50", "p99", "max"))]
        for way, values in results["seconds"].items()
    ]
    tables = [
        verdict_table(found),
        Table(["cycles by", "p50 ms", "p99", "max"], rows),
        memory_table(results["memory"], "cycles"),
    ]
    failures = Table(["failure"], [[failure] for failure in results["failures"]])
    sections = [
        Section("What was to be shown", tables=tables[:1]),
        Section("Time of a cycle", tables=tables[1:2]),
        Section("Memory", tables=tables[2:], figures=memory_figures(results["memory"], "cycle")),
        Section("Failures", "" if failures.rows else "None.", [failures] if failures.rows else []),
    ]
    write_page(out / "report.html", TITLE, source, sections)
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_FILES
    for table in [*tables, *([failures] if failures.rows else [])]:
        console.print(table.for_console())
