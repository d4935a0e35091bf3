"""What `eval win-rate` prints and draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steer_server.evaluation.html import COLOURS, INK, Section, Table, add_legend, new_figure
from steer_server.evaluation.seen_prompts import unknown_sentence

INTRODUCTION = (
    "A judge is a reward head: a linear score on the base model's last hidden state of a text, learnt from "
    "people's choices on other prompts than those asked here and than those of the heads that steer. It "
    "scores each answer by itself, so there is no position to swap. Ties count half.\n\n"
    "The row with another seed compares the reference with itself: what no difference looks like. "
    "Length-controlled is the win rate that a logistic fit expects at equal length; `longer` is the share of "
    "prompts where the setting's answer is the longer one, which is what a judge that only counts words "
    "would say. Intervals are over prompts, 95 %: Wilson's for win rates, resampled for the others. They "
    "hold for one row; of many rows some leave their interval by chance.\n\n"
    "Value axes may have learnt from the same data sets as the judges, on other prompts than those asked."
)


def win_rate_table(results: Mapping[str, Any]) -> Table:
    """Every setting under every judge."""
    rows = [
        [
            name,
            judge,
            str(row["prompts"]),
            f"{row['win']} / {row['tie']} / {row['lose']}",
            f"{row['win_rate']:.3f} {_interval(row['win_rate_95'])}",
            f"{row['length_controlled_win_rate']:.3f} {_interval(row['length_controlled_win_rate_95'])}",
            f"{row['mean_score_difference']:+.3g}",
            f"{row['mean_tokens']:.0f} : {row['other_mean_tokens']:.0f}",
            f"{row['longer_share']:.2f}",
        ]
        for judge, found in results["judges"].items()
        for name, row in found["rows"].items()
    ]
    return Table(
        [
            "setting",
            "judge",
            "prompts",
            "win / tie / lose",
            "win rate",
            "at equal length",
            "score difference",
            "tokens",
            "longer",
        ],
        rows,
        f"Against {results['against']}; higher is better, 0.5 is no difference. Brackets: 95 %",
    )


def judge_table(results: Mapping[str, Any]) -> Table:
    """What each judge is worth on its own pairs of unseen prompts, beside what needs no model."""
    rows = []
    for judge, found in results["judges"].items():
        for part, scores in found["own_pairs"].items():
            cells = [_share(scores.get(key)) for key in ("accuracy", "length", "bag_of_words", "majority")]
            rows.append([judge, part.replace("_", "-"), str(scores.get("rows", "")), *cells])
    return Table(
        ["judge", "pairs", "rows", "accuracy", "by length alone", "bag of words", "majority"],
        rows,
        "How often the judge prefers what people preferred, on pairs of prompts that it has not seen",
    )


def sections(results: Mapping[str, Any]) -> list[Section]:
    """The page."""
    requests, sampling = results["requests"], results["sampling"]
    intro = "\n\n".join(filter(None, (INTRODUCTION, unknown_sentence(results["unknown_training"]))))
    if requests["failed"]:
        dropped = sum(r["dropped"] for found in results["judges"].values() for r in found["rows"].values())
        intro += (
            f"\n\n{requests['failed']} of {requests['requests']} requests failed, and {dropped} comparisons "
            "were left out for it; report.json lists them."
        )
    answers = Table(
        ["setting", "answers", "cut off", "empty"],
        [[name, str(a["answers"]), str(a["cut"]), str(a["empty"])] for name, a in results["answers"].items()],
        f"Sampled at temperature {sampling['temperature']}, at most {sampling['max_tokens']} tokens; a judge "
        "reads an answer that was cut off as if it ended there",
    )
    page = [
        Section("Win rates", intro, [win_rate_table(results)]),
        Section("Judges", "\n\n".join(map(_worth, results["judges"].items())), [judge_table(results)]),
    ]
    for judge, found in results["judges"].items():
        prompts = found["prompts"]
        text = (
            f"{prompts['asked']} prompts: {prompts['source']}, {prompts['in_source']} in all, of which "
            f"{prompts['left_out_as_trained_on']} are left out because something was trained on them. Bars "
            "are 95 % intervals; the dashed line is no difference."
        )
        page.append(Section(f"Judge {judge}", text, figures=[_bars(found["rows"])]))
    page.append(Section("Answers", "", [answers]))
    return page


def _worth(item: tuple[str, Mapping[str, Any]]) -> str:
    judge, found = item
    test = found["own_pairs"]["test"]
    text = f"{judge}: a high score says that {found['label_meaning']}."
    if "accuracy" in test and "length" in test and test["accuracy"] <= test["length"]:
        text += " On the test pairs it does not beat length alone: read its win rates at equal length."
    return text


def _bars(rows: Mapping[str, Any]) -> Any:
    figure = new_figure(8.0, 1.2 + 0.5 * len(rows))
    (axes,) = figure.axes
    names = list(rows)
    for n, (key, label) in enumerate(
        [("win_rate", "win rate"), ("length_controlled_win_rate", "at equal length")]
    ):
        at = [i + 0.3 * (n - 0.5) for i in range(len(names))]
        values: Sequence[float] = [rows[name][key] for name in names]
        # A resampled interval may miss the estimate itself by rounding.
        low = [max(0.0, v - rows[name][f"{key}_95"][0]) for v, name in zip(values, names, strict=True)]
        high = [max(0.0, rows[name][f"{key}_95"][1] - v) for v, name in zip(values, names, strict=True)]
        axes.errorbar(values, at, xerr=[low, high], fmt="o", color=COLOURS[n], capsize=3, label=label)
    axes.axvline(0.5, linestyle="--", color=INK, linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    add_legend(figure, 2)
    return figure


def _interval(bounds: Sequence[float]) -> str:
    return f"[{bounds[0]:.2f}, {bounds[1]:.2f}]"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
