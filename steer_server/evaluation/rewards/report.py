"""What `bench rewards` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steer_server.evaluation.html import Section, Table
from steer_server.evaluation.seen_prompts import unknown_sentence


def tables(results: Mapping[str, Any]) -> list[Table]:
    return [cost_table(results), choice_table(results)]


def cost_table(results: Mapping[str, Any]) -> Table:
    cost = results["cost"]
    ratios = {
        "prefill": "1",
        "scoring": f"{cost['scoring_over_prefill']:.3f} of the prefill",
        "scoring, more heads": f"{cost['more_heads_over_one']:.3f} of one head",
    }
    rows = [[way, f"{seconds * 1000:.0f}", ratios[way]] for way, seconds in cost["seconds"].items()]
    return Table(
        ["way", "ms", "ratio"],
        rows,
        f"{cost['answers']} answers, {cost['tokens']} tokens; {cost['more_heads']} more heads; medians of "
        f"{cost['rounds']} rounds",
    )


def choice_table(results: Mapping[str, Any]) -> Table:
    options, choice = results["options"], results["choice"]
    rows = []
    for way, row in choice["ways"].items():
        against = choice["against_one"].get(way)
        rows.append(
            [
                way,
                f"{row['p50'] * 1000:.0f}",
                f"{row['p95'] * 1000:.0f}",
                f"{row['mean_tokens']:.0f}",
                f"{row['mean_score']:.3f}",
                f"{against['head_gain']:+.3f} {_interval(against['head_gain_95'])}" if against else "",
                f"{against['win']} / {against['tie']} / {against['lose']}" if against else "",
                f"{against['win_rate']:.3f} {_interval(against['win_rate_95'])}" if against else "",
            ]
        )
    return Table(
        ["way", "p50 ms", "p95 ms", "tokens", "head", "gain", "judge: win / tie / lose", "win rate"],
        rows,
        f"{choice['prompts']['asked']} prompts, n = {options['candidates']}, {options['concurrency']} at a "
        f"time; head {options['head']}, judge {choice['judge']['name']} of another split; brackets: 95 %",
    )


def sections(results: Mapping[str, Any]) -> list[Section]:
    return [
        Section(
            "What scoring costs",
            "A prefill and a scoring of equally many tokens; every measurement reads texts of its own.",
            [cost_table(results)],
        ),
        Section(
            "What choosing gains",
            "Scores by the head that chose, and wins by a judge that learnt from other people's choices. The "
            "row with another seed compares one answer with itself. "
            + unknown_sentence(results["unknown_training"]),
            [choice_table(results)],
        ),
    ]


def _interval(bounds: list[float]) -> str:
    return f"[{bounds[0]:.3f}, {bounds[1]:.3f}]"
