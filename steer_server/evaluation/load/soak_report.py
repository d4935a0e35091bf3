"""The report of a soak: verdicts, how every kind of request ended, and what the server held meanwhile."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from steer_server.evaluation.html import COLOURS, Section, Table, add_legend, new_figure
from steer_server.evaluation.load.latency_report import percentiles
from steer_server.evaluation.load.open_loop import Window
from steer_server.evaluation.load.soak import SoakOptions, SoakRun
from steer_server.evaluation.load.soak_load import Asked, End
from steer_server.evaluation.trends import NOISES, Trend
from steer_server.evaluation.verdicts import Verdict, verdict_table

MAX_NO_ROOM = 0.01
"""Share of good requests that may be told to come back later."""
ALLOWED_MIB, ALLOWED_SHARE = 8.0, 0.005
"""Growth of a process in the second half that is no leak, together: allocators keep pages, and hand them back
late."""
ALLOWED_HANDLES = 4
"""More than before, with all clients gone: connections to the database, files that are opened once."""
ELSEWHERE = "the server's processes are not on this machine"
MAX_LISTED_FAILURES = 50
KIB_PER_MIB = 1024


def soak_results(run: SoakRun, options: SoakOptions) -> dict[str, Any]:
    """What is written to report.json, verdicts included."""
    everyone = [*run.warm, *run.window.sent, *run.again]
    failures = [one for one in everyone if one.problem]
    results: dict[str, Any] = {
        "server": run.server.describe(),
        "options": options.describe(),
        "rate": run.rate,
        "tried": [_describe_window(window) for window in run.tried],
        "load": _describe_window(run.window),
        "kinds": _kinds(everyone),
        "failed": len(failures),
        "failures": [one.describe() for one in failures[:MAX_LISTED_FAILURES]],
        "watched": run.watched,
        "settled_seconds": round(run.settled_seconds, 2),
        "left": run.left,
        "handles_before_and_after": run.handles,
    }
    return results | {"verdicts": [asdict(verdict) for verdict in verdicts(results)]}


def verdicts(results: Mapping[str, Any]) -> list[Verdict]:
    """Each thing that must be seen, from the results alone."""
    ends = Counter[str]()
    bad_ends = Counter[str]()
    for kind, found in results["kinds"].items():
        (bad_ends if kind.startswith("bad/") else ends).update(found["ends"])
    num_good, num_bad = ends.total(), bad_ends.total()
    hung = ends[End.HANG] + bad_ends[End.HANG]
    limit = results["options"]["hang_seconds"]
    no_room = ends[End.NO_ROOM]
    return [
        Verdict("nothing_hangs", not hung, f"{hung} of {num_good + num_bad} had not ended after {limit:g} s"),
        Verdict(
            "good_are_answered",
            not ends[End.WRONG] and no_room <= MAX_NO_ROOM * num_good and ends[End.ANSWERED] > 0,
            f"{ends[End.ANSWERED]} answered, {ends[End.LEFT]} left by their clients, "
            f"{ends[End.WRONG]} wrong, {no_room} told to come back (at most {MAX_NO_ROOM:.0%})",
        ),
        Verdict(
            "bad_are_refused",
            bad_ends[End.REFUSED] == num_bad > 0,
            f"{bad_ends[End.REFUSED]} of {num_bad} with the right status, code and param",
        ),
        _given_back(results),
        _memory(results),
        _handles(results),
    ]


def _given_back(results: Mapping[str, Any]) -> Verdict:
    name, left = "all_given_back", results["left"]
    if left is None:
        return Verdict(name, None, "the server's /metrics does not say what is held")
    held = ", ".join(f"{key} {value:g}" for key, value in left.items())
    told = f"not 0: {held}" if left else "every gauge of what is under way is 0"
    return Verdict(name, not left, f"{told}, {results['settled_seconds']:g} s after the last request ended")


def _memory(results: Mapping[str, Any]) -> Verdict:
    trends = results["watched"]["memory_trend"]
    name = "memory_flat"
    if not trends or None in trends.values():
        return Verdict(name, None, "too few samples" if trends else ELSEWHERE)
    grown = {key: one for key, one in trends.items() if not _is_memory_flat(one)}
    worst = max(trends.values(), key=lambda one: float(one["growth"]))
    told = f"no process grows by more than {worst['growth']:.1f} MiB in the second half"
    if grown:
        told = ", ".join(f"{key} {one['growth']:+.1f} MiB" for key, one in grown.items())
    return Verdict(name, not grown, told)


def _handles(results: Mapping[str, Any]) -> Verdict:
    name, pairs = "handles_given_back", results["handles_before_and_after"]
    if not pairs:
        return Verdict(name, None, ELSEWHERE)
    left = {key: pair for key, pair in pairs.items() if pair[1] > pair[0] + ALLOWED_HANDLES}
    told = ", ".join(f"{key} {before} -> {after}" for key, (before, after) in (left or pairs).items())
    return Verdict(name, not left, f"with all clients gone, before and after: {told}")


def _is_memory_flat(trend: Mapping[str, float]) -> bool:
    return Trend(**trend).is_flat(ALLOWED_MIB + ALLOWED_SHARE * trend["first"])


def _describe_window(window: Window[Asked]) -> dict[str, Any]:
    measured = window.measured
    return {
        "rate": round(window.rate, 3),
        "seconds": window.seconds,
        "sent": len(measured),
        "is_sustained": window.is_sustained,
        "finished_per_second": round(window.num_finished / window.seconds, 3),
        "late_p99_seconds": percentiles([one.began - one.due for one in measured])["p99"],
    }


def _kinds(asked: Sequence[Asked]) -> dict[str, dict[str, Any]]:
    """By kind: how its requests ended, and how long they took."""
    by_kind: dict[str, list[Asked]] = defaultdict(list)
    for one in asked:
        by_kind[one.kind].append(one)
    return {
        kind: {
            "ends": dict(Counter(one.end.value for one in several)),
            "seconds": percentiles([one.ended - one.due for one in several]),
        }
        for kind, several in sorted(by_kind.items())
    }


def tables(results: Mapping[str, Any]) -> list[Table]:
    found = [verdict_table(verdicts(results)), _kind_table(results), _trend_table(results)]
    return [*found, _failure_table(results)] if results["failures"] else found


def sections(results: Mapping[str, Any]) -> list[Section]:
    watched = results["watched"]
    found = [Section("What was to be shown", _rule(), [verdict_table(verdicts(results))])]
    load = results["load"]
    text = (
        f"{load['sent']} requests in {load['seconds']:g} s, {load['rate']:g} per second, each sent when it "
        f"was due; {load['finished_per_second']:g} per second ended as they should."
    )
    found.append(Section("Requests", text, [_kind_table(results)]))
    if results["tried"]:
        found.append(Section("In search of the highest sustained rate", tables=[_tried_table(results)]))
    figures = []
    if watched["memory_mib"]:
        figures = [_figure(watched, "memory_mib", "RSS, MiB"), _figure(watched, "handles", "open handles")]
    found.append(Section("Memory and handles", tables=[_trend_table(results)], figures=figures))
    held = Table(["gauge", "most"], [[key, f"{value:g}"] for key, value in watched["most_held"].items()])
    found.append(Section("Held at most", tables=[held]))
    return [*found, Section("Failures", tables=[_failure_table(results)])] if results["failures"] else found


def _rule() -> str:
    return (
        "Memory: a line is laid through the second half of each process's samples (median of all pairs' "
        f"slopes). It is flat when it grows by no more than {NOISES:g} times the samples' noise about it, or "
        f"by no more than {ALLOWED_MIB:g} MiB and {ALLOWED_SHARE:.1%} of the process together.\n\n"
        "Handles: under load they follow the number of clients. With all clients gone there may be "
        f"{ALLOWED_HANDLES} more than before, when the server had been warmed up by the same mix."
    )


def _kind_table(results: Mapping[str, Any]) -> Table:
    rows = [
        [kind, *(str(found["ends"].get(end, 0)) for end in End)]
        + [f"{found['seconds'][key]:.2f}" for key in ("p50", "p99", "max")]
        for kind, found in results["kinds"].items()
    ]
    return Table(["kind", *(end.value for end in End), "p50 s", "p99", "max"], rows)


def _trend_table(results: Mapping[str, Any]) -> Table:
    rows = []
    num_late = results["load"]["sent"] / 2
    for key, unit in (("memory_trend", "MiB"), ("handles_trend", "handles")):
        for process, one in results["watched"][key].items():
            if one is None:
                continue
            numbers = [f"{one[part]:.1f}" for part in ("first", "middle", "last", "growth", "noise")]
            each = f"{one['growth'] * KIB_PER_MIB / num_late:+.2f} KiB" if unit == "MiB" and num_late else ""
            rows.append([f"{process}, {unit}", *numbers, each])
    header = ["process", "first", "middle", "last", "growth", "noise", "growth per request"]
    return Table(header, rows, "Growth and noise of the second half")


def _tried_table(results: Mapping[str, Any]) -> Table:
    rows = [
        [f"{one['rate']:g}", str(one["sent"]), f"{one['finished_per_second']:g}", str(one["is_sustained"])]
        for one in results["tried"]
    ]
    return Table(["rate/s", "sent", "finished/s", "sustained"], rows)


def _failure_table(results: Mapping[str, Any]) -> Table:
    rows = [[one["kind"], one["end"], one["detail"]] for one in results["failures"]]
    return Table(["kind", "end", "what"], rows, f"{len(rows)} of {results['failed']}")


def _figure(watched: Mapping[str, Any], key: str, label: str) -> Any:
    figure = new_figure()
    (axes,) = figure.axes
    for number, (name, values) in enumerate(watched[key].items()):
        axes.plot(watched["seconds"], values, color=COLOURS[number % len(COLOURS)], label=name)
    axes.set_xlabel("seconds of load")
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    add_legend(figure, columns=2)
    return figure
