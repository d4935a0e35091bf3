"""What `eval norms` prints and draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steer_server.evaluation.html import COLOURS, Section, Table, add_legend, new_figure

ROWS = {
    "majority": "the most frequent label (no model)",
    "words": "bag of words, trained on other countries (no model)",
    "word pairs": "words and pairs of words, the same way (no model)",
    "base": "base model, not told the country",
    "country": "base model, told the country",
    "rule": "base model, given the rule of thumb",
    "own": "own culture's adapter, not told the country",
}
INTRODUCTION = (
    "The question that ended a story in the original gave the label away and is removed. The model chooses "
    "among lettered options; shares are averaged over option orders, and a tie is wrong. The two rows of "
    "words see the story's words alone, names masked, and learn from other countries: what they score is in "
    "the wording, not in any culture."
)


def accuracy_table(results: Mapping[str, Any]) -> Table:
    """All stories, and beside them those of countries that have a culture."""
    steered = results["rows_of_steered_countries"]
    header = ["judge", "accuracy", "± s.e.", "country mean", "worst country", "says yes / no / neutral"]
    if steered:
        header[4:4] = ["steered countries", "their worst"]
    rows = []
    for name, label in ROWS.items():
        row, own = results["rows"].get(name), steered.get(name)
        if row is None and own is None:
            continue
        cells = [label]
        cells += [_share(row["accuracy"]), _share(row["standard_error"])] if row else ["", ""]
        cells += [_share(row["country_mean"])] if row else [""]
        if steered:
            cells += [_share(own["accuracy"]), _worst(own)]
        cells += [_worst(row)] if row else [""]
        cells.append(" / ".join(f"{v:.2f}" for v in results["judged_as"][name].values()))
        rows.append(cells)
    people = ["people"] + [""] * (len(header) - 2)
    rows.append([*people, " / ".join(f"{v:.2f}" for v in results["people"].values())])
    caption = f"Accuracy against people's judgement; higher is better. {results['data']['baselines']}"
    return Table(header, rows, caption)


def country_table(results: Mapping[str, Any], *, all_countries: bool = True) -> Table:
    """All countries, or those that have a culture (all if none has)."""
    names = [name for name in ROWS if name in results["rows"] or results["rows_of_steered_countries"]]
    rows = [
        [
            f"{country} ({found['culture']})" if found["culture"] else country,
            str(found["stories"]),
            *(_share(found["accuracy"].get(name)) for name in names),
        ]
        for country, found in results["countries"].items()
        if all_countries or found["culture"] or not results["rows_of_steered_countries"]
    ]
    return Table(["country (culture)", "stories", *names], rows, "Accuracy by country")


def sections(results: Mapping[str, Any]) -> list[Section]:
    """The page."""
    data, requests = results["data"], results["requests"]
    intro = (
        f"{data['num_stories']} of {data['num_stories_in_file']} stories of {data['file']}. {INTRODUCTION}"
    )
    if requests["failed"]:
        intro += (
            f"\n\n{requests['failed']} of {requests['requests']} requests failed; report.json lists them."
        )
    intro = "\n\n".join([intro, *results["remarks"]])
    diagnostics = Table(
        ["row", "stories", "mass", "letters by bound"],
        [
            [name, str(d["answers"]), f"{d['mass']:.3g}", str(d["missing_letters"])]
            for name, d in results["diagnostics"].items()
        ],
        "Mass: mean probability that the answer is one of the letters at all",
    )
    page = [Section("Means", intro, [accuracy_table(results)])]
    if results["rows_of_steered_countries"]:
        page.append(Section("Countries with a culture", figures=[_bars(results)]))
    return [
        *page,
        Section("By country", "", [country_table(results)]),
        Section("How answers were read", "", [diagnostics]),
    ]


def _bars(results: Mapping[str, Any]) -> Any:
    countries = {c: found for c, found in results["countries"].items() if found["culture"]}
    names = [n for n in ("majority", "words", "base", "country", "own") if n in results["judged_as"]]
    figure = new_figure(max(6.0, 0.9 * len(countries)), 3.6)
    (axes,) = figure.axes
    width = 0.8 / len(names)
    for n, name in enumerate(names):
        at = [i + n * width for i in range(len(countries))]
        heights = [found["accuracy"][name] for found in countries.values()]
        axes.bar(at, heights, width, label=name, color=COLOURS[n])
    axes.set_xticks([i + 0.4 - width / 2 for i in range(len(countries))], list(countries))
    axes.set_ylabel("accuracy")
    add_legend(figure, 5)
    return figure


def _worst(row: Mapping[str, Any]) -> str:
    return f"{row['worst_accuracy']:.2f} {row['worst_country']}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
