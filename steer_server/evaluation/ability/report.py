"""What `eval ability` prints and draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steer_server.evaluation.html import COLOURS, INK, Section, Table, add_legend, new_figure

READOUTS = {"letters": "by letter", "words": "by words"}
INTRODUCTION = (
    "Perplexity is of short neutral passages as plain text: 1 is certainty, and the ratio to the base's is "
    "what steering costs in fluency. Accuracy is of easy questions with four options, so chance is 0.25. By "
    "letter the options are shown as A to D, in four orders that give each option each letter once; by words "
    "they are not shown, and the likeliest whole answer counts.\n\n"
    "Every row is over the same passages and questions. Intervals are 95 %. The worst of many settings is "
    "low partly by chance: look at the interval of its difference from base."
)


def ability_table(results: Mapping[str, Any]) -> Table:
    """Every setting."""
    header = ["setting", "perplexity", "ratio to base"]
    for label in READOUTS.values():
        header += [f"accuracy {label}", "from base"]
    rows = []
    for name, row in results["rows"].items():
        text = row["text"]
        cells = [
            name,
            f"{text['perplexity']:.2f}",
            f"{text['ratio_to_base']:.3f} {_interval(text['ratio_to_base_95'], 3)}",
        ]
        for readout in READOUTS:
            found = row[readout]
            cells += [
                f"{found['accuracy']:.3f} {_interval(found['accuracy_95'])}",
                f"{found['difference_from_base']:+.3f} {_interval(found['difference_from_base_95'])}",
            ]
        rows.append(cells)
    return Table(header, rows, " ".join(filter(None, (_worst_line(results), _dropped_line(results)))))


def topic_table(results: Mapping[str, Any]) -> Table:
    """Accuracy by topic and readout, of the base and of the worst setting of each readout."""
    worst = {readout: found["setting"] for readout, found in results["worst"].items() if readout in READOUTS}
    names = ["base", *dict.fromkeys(worst.values())]
    topics = list(next(iter(results["rows"].values()))["letters"]["by_topic"])
    rows = [
        [
            f"{name}, {label}",
            *(_share(results["rows"][name][readout]["by_topic"].get(topic)) for topic in topics),
        ]
        for name in names
        for readout, label in READOUTS.items()
    ]
    return Table(["setting", *topics], rows, "Accuracy by topic; chance is 0.25")


def sections(results: Mapping[str, Any]) -> list[Section]:
    """The page."""
    data, requests = results["data"], results["requests"]
    intro = f"{data['passages']} passages and {data['questions']} questions. {INTRODUCTION}"
    if requests["failed"]:
        intro += (
            f"\n\n{requests['failed']} of {requests['requests']} requests failed; report.json lists them. "
            f"{_dropped_line(results)}"
        )
    diagnostics = Table(
        ["setting", *(f"{what} {label}" for label in READOUTS.values() for what in ("mass", "right share"))],
        [
            [
                name,
                *(
                    f"{row[readout][key]:.3g}"
                    for readout in READOUTS
                    for key in ("mass", "mean_share_of_the_right_option")
                ),
            ]
            for name, row in results["rows"].items()
        ],
        "Mass: mean probability that the answer is one of the options at all. Right share: mean share of the "
        "right option among the four, which moves before accuracy does",
    )
    return [
        Section("Every setting", intro, [ability_table(results)], [_ratios(results), _accuracies(results)]),
        Section("By topic", "", [topic_table(results)]),
        Section("How answers were read", "", [diagnostics]),
    ]


def _worst_line(results: Mapping[str, Any]) -> str:
    worst = results["worst"]
    if not worst:
        return "Only the base was measured"
    parts = [f"perplexity {worst['perplexity']['setting']} (x{worst['perplexity']['ratio_to_base']:.3f})"]
    parts += [
        f"{label} {worst[readout]['setting']} ({worst[readout]['accuracy']:.3f})"
        for readout, label in READOUTS.items()
    ]
    return f"Worst: {', '.join(parts)}. Brackets: 95 %"


def _dropped_line(results: Mapping[str, Any]) -> str:
    dropped = results["dropped"]
    if not any(dropped.values()):
        return ""
    left_out = ", ".join(f"{num} of {what}" for what, num in dropped.items())
    return f"As requests failed, there were left out under every setting: {left_out}."


def _ratios(results: Mapping[str, Any]) -> Any:
    rows = {name: row["text"] for name, row in results["rows"].items() if name != "base"}
    figure = _dots(list(rows), [(0, "perplexity, ratio to base", rows, "ratio_to_base")])
    figure.axes[0].axvline(1, linestyle="--", color=INK, linewidth=1)
    figure.axes[0].set_xlabel("perplexity, ratio to base")
    return figure


def _accuracies(results: Mapping[str, Any]) -> Any:
    names = list(results["rows"])
    series = [
        (n, label, {name: results["rows"][name][readout] for name in names}, "accuracy")
        for n, (readout, label) in enumerate(READOUTS.items())
    ]
    figure = _dots(names, series)
    figure.axes[0].axvline(results["chance"], linestyle="--", color=INK, linewidth=1)
    figure.axes[0].set_xlim(0, 1)
    figure.axes[0].set_xlabel("accuracy; the dashed line is chance")
    add_legend(figure, 2)
    return figure


def _dots(names: Sequence[str], series: Sequence[tuple[int, str, Mapping[str, Any], str]]) -> Any:
    """Estimates with intervals, one line of the plot per name."""
    figure = new_figure(8.0, 1.4 + 0.35 * len(names))
    (axes,) = figure.axes
    for n, label, rows, key in series:
        values = [rows[name][key] for name in names]
        # A resampled interval may miss the estimate itself by rounding.
        low = [max(0.0, rows[name][key] - rows[name][f"{key}_95"][0]) for name in names]
        high = [max(0.0, rows[name][f"{key}_95"][1] - rows[name][key]) for name in names]
        at = [i + 0.25 * (n - (len(series) - 1) / 2) for i in range(len(names))]
        axes.errorbar(values, at, xerr=[low, high], fmt="o", color=COLOURS[n], capsize=2, label=label)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    return figure


def _interval(bounds: Sequence[float], decimals: int = 2) -> str:
    return f"[{bounds[0]:.{decimals}f}, {bounds[1]:.{decimals}f}]"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
