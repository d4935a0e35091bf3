"""What `eval frozen` prints and draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steer_server.evaluation.frozen.plots import reward_by_latency, win_rates
from steer_server.evaluation.frozen.ways import PLAIN
from steer_server.evaluation.html import Section, Table
from steer_server.evaluation.seen_prompts import unknown_sentence
from steer_server.evaluation.win_rate.report import judge_table

INTRODUCTION = (
    "Every prompt is answered in every way before the next one is asked, and the ways take turns in going "
    "first, so that what else the machine does falls on all of them. All answers but those of plain have "
    "the second seed; the row with another seed is what no difference looks like.\n\n"
    "A judge is a reward head of another split than the heads that steer, choose and search; it scores each "
    "answer by itself. The steering head's own reward says how well a way does what it was chosen by, not "
    "how much better people find the answers. Ties count half. Intervals are over prompts, 95 %: Wilson's "
    "for win rates, resampled for the others; they hold for one row, and of many rows some leave theirs by "
    "chance.\n\n"
    "Tokens are those of all requests that an answer took: read by the model and by the heads that chose, "
    "cached ones included, and generated. Of align_pro the rewriting is not in them, as responses do not "
    "say it; its time is. Latency is from the first request to the last answer, of those that took no retry."
)


def tables(results: Mapping[str, Any]) -> list[Table]:
    """What is printed."""
    found = []
    for value, aim in results["aims"].items():
        found += [reward_table(value, aim), cost_table(value, aim, results["options"])]
        found += [table for table in (denoising_table(value, aim),) if table.rows]
    if results["rewriting"].get("prompts"):
        found.append(rewriting_table(results["rewriting"]))
    return [*found, target_table(results)]


def target_table(results: Mapping[str, Any]) -> Table:
    words = {True: "met", False: "missed", None: "not measured"}
    rows = [[t["what"], t["wanted"], words[t["is_met"]], t["found"]] for t in results["targets"]]
    return Table(["target", "wanted", "", "found"], rows, "Targets")


def reward_table(value: str, aim: Mapping[str, Any]) -> Table:
    rows = []
    for name, row in aim["rows"].items():
        against = row.get("against_plain")
        rows.append(
            [
                name,
                str(row["answers"]),
                _mean(row["judge_reward"]),
                _mean(row["judge_gain"], "+") if against else "",
                f"{against['win']} / {against['tie']} / {against['lose']}" if against else "",
                _rate(against, "win_rate"),
                _rate(against, "length_controlled_win_rate"),
                _rate(row.get("against_search"), "win_rate"),
                _mean(row["head_reward"]),
                _mean(row["head_gain"], "+") if against else "",
            ]
        )
    return Table(
        [
            "way",
            "answers",
            "judge",
            "gain",
            "win / tie / lose",
            "win rate",
            "at equal length",
            "against search",
            "head",
            "head's gain",
        ],
        rows,
        f"{value}: rewards 0..1 and wins against {PLAIN}, by the judge; brackets: 95 %",
    )


def cost_table(value: str, aim: Mapping[str, Any], options: Mapping[str, Any]) -> Table:
    rows = []
    for name, row in aim["rows"].items():
        latency = row["latency"]
        ratio = latency.get("p95_over_best_of")
        rows.append(
            [
                name,
                *(_number(latency.get(key)) for key in ("p50_seconds", "p95_seconds")),
                f"{ratio:.2f} {_interval(latency['p95_over_best_of_95'])}" if ratio is not None else "",
                f"{row['prefilled_tokens']:.0f}",
                f"{row['generated_tokens']:.0f}",
                str(row["cut"]),
                str(row["empty"]),
                str(row["failed"]),
            ]
        )
    return Table(
        [
            "way",
            "p50 s",
            "p95 s",
            f"p95 over best of {options['candidates']}",
            "read",
            "generated",
            "cut",
            "empty",
            "failed",
        ],
        rows,
        f"{value}: latency with {options['concurrency']} prompts under way, tokens per answer; at most "
        f"{options['max_tokens']} tokens, temperature {options['temperature']:g}",
    )


def denoising_table(value: str, aim: Mapping[str, Any]) -> Table:
    rows = []
    for name, row in aim["rows"].items():
        if "denoising" not in row:
            continue
        found, against = row["denoising"], row["against_draft"]
        rows.append(
            [
                name,
                _counted(found["outcomes"]),
                f"{found['loops']:.1f}",
                f"{found['changed_share_of_tokens']:.1%}",
                _counted(found["candidates_by_guard"]),
                f"{_mean(found['likelihood_change'], '+')}, worst {found['likelihood_change_worst']:+.3f}",
                _mean(found["log_ratio_change"], "+"),
                _rate(against, "win_rate"),
                _rate(against["of_changed"], "win_rate"),
            ]
        )
    return Table(
        [
            "way",
            "outcomes",
            "loops",
            "tokens changed",
            "candidates",
            "base likelihood",
            "log-ratio, nats",
            "win rate against the draft",
            "of changed answers",
        ],
        rows,
        f"{value}: denoising; changes of the log-likelihood per token relative to the draft's, as the "
        "judges' model reads both, drafts that were given back as 0; the log-ratio is the server's own",
    )


def rewriting_table(rewriting: Mapping[str, Any]) -> Table:
    names = {
        "plain_answer_ms": "plain answer, ms",
        "uncached_ms": "rewriting, ms",
        "cached_ms": "finding it in the cache, ms",
        "cached_request_ms": "the same with the request around it, ms",
        "uncached_over_answer": "rewriting over the plain answer",
        "align_pro_over_plain": "whole answer by align_pro over the plain one",
    }
    rows = [
        [name, f"{found['p50']:.3g}", _interval(found["p50_95"], 3), f"{found['p95']:.3g}"]
        for key, name in names.items()
        if (found := rewriting[key]) is not None
    ]
    return Table(
        ["", "median", "95 %", "95th percentile"],
        rows,
        f"Rewriting, {rewriting['prompts']} prompts one at a time ({rewriting['not_rewritten']} left out, "
        f"{rewriting['failed']} failed); plain answers of {rewriting['answer_tokens']:g} tokens",
    )


def sections(results: Mapping[str, Any]) -> list[Section]:
    """The page."""
    page = [Section(f"Targets, on {results['model']}", _introduction(results), [target_table(results)])]
    for value, aim in results["aims"].items():
        prompts = aim["prompts"]
        text = (
            f"{prompts['asked']} prompts: {prompts['source']}, {prompts['in_source']} in all, of which "
            f"{prompts['left_out_as_trained_on']} are left out because something was trained on them. "
            f"A high score of the judge says that {aim['judge']['label_meaning']}. The statement: "
            f"“{aim['statement']}”\n\n"
        )
        text += " ".join(f"No row {name}: {reason}." for name, reason in aim["missing"].items())
        shown = [reward_table(value, aim), cost_table(value, aim, results["options"])]
        shown += [_rewrites_table(aim)] if _rewrites_table(aim).rows else []
        page.append(Section(value, text, shown, [win_rates(aim["rows"]), reward_by_latency(aim["rows"])]))
        if (denoising := denoising_table(value, aim)).rows:
            page.append(Section(f"{value}: denoising", "", [denoising]))
    judged = {"judges": {value: aim["judge"] | {"rows": {}} for value, aim in results["aims"].items()}}
    page.append(Section("Judges", "", [judge_table(judged)]))
    if results["rewriting"].get("prompts"):
        page.append(Section("What rewriting takes", "", [rewriting_table(results["rewriting"])]))
    return page


def _introduction(results: Mapping[str, Any]) -> str:
    text, requests = INTRODUCTION, results["requests"]
    if unknown := unknown_sentence(results["unknown_training"]):
        text += f"\n\n{unknown}"
    failed = sum(row["failed"] for aim in results["aims"].values() for row in aim["rows"].values())
    if failed:
        text += f"\n\n{failed} answers are missing because requests failed; report.json says why."
    if requests["prompts_answered_before"]:
        text += (
            f"\n\n{requests['prompts_answered_before']} prompts were answered by earlier runs of the command."
        )
    return text


def _rewrites_table(aim: Mapping[str, Any]) -> Table:
    rows = [
        [name, _counted(found["outcomes"]), f"{found['sent_share']:.0%}", _number(found["uncached_p50_ms"])]
        for name, row in aim["rows"].items()
        if (found := row.get("rewriting"))
    ]
    rows += [
        [name, f"{row['usable_rewrites']} usable rewrites of each prompt", "", ""]
        for name, row in aim["rows"].items()
        if "usable_rewrites" in row
    ]
    return Table(
        ["way", "rewrites", "sent", "median ms"], rows, "Rewrites; one that fails its checks is not sent"
    )


def _mean(found: Mapping[str, Any], sign: str = "") -> str:
    return f"{found['mean']:{sign}.3f} {_interval(found['interval_95'], 3)}"


def _rate(against: Mapping[str, Any] | None, key: str) -> str:
    return f"{against[key]:.3f} {_interval(against[f'{key}_95'])}" if against else ""


def _interval(bounds: Sequence[float], digits: int = 2) -> str:
    return f"[{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
