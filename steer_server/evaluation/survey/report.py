"""What `eval survey` prints and draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steer_server.evaluation.html import COLOURS, INK, Section, Table, add_legend, heat_map, new_figure
from steer_server.evaluation.survey.blends import MIN_RESOLVED_BITS
from steer_server.evaluation.survey.scores import FIXED_ROWS

ROWS = {
    "uniform": "uniform (no model)",
    "table": "same options (no model)",
    "pooled": "pooled (no model)",
    "base": "base",
    "prompt": "prompt",
    "own": "own culture",
    "mean other": "mean of other cultures",
    "best other": "best other culture",
}
INTRODUCTION = (
    "Scores are Jensen-Shannon divergences in bits between the model's distribution over the options and "
    "people's, 0 to 1: a mean over the countries of a culture, then over cultures. W1 is the Wasserstein "
    "distance as a share of the scale, over questions with three or more options in their natural order. "
    "Entropy, in bits, says how spread answers are: a setting far below people's has lost diversity.\n\n"
    "Uniform answers every option equally often. Same options is the mean of the country's people on other "
    "known questions with the same options; pooled that of the other countries' people on the same question. "
    "Base is the model without steering; prompt tells it to be a person of the country; own steers with the "
    "country's culture. The best other culture is chosen knowing the result."
)
WHAT = {
    "letters": "Options listed as A, B, …; softmax of the letters' log-probabilities at the first token; "
    "mean over option orders.",
    "words": "The question alone; softmax over options of the log-probability of the option's text, a full "
    "stop and the end of the turn.",
}


def mean_tables(results: Mapping[str, Any]) -> list[Table]:
    """Every setting under every readout: means of the countries with an own culture, and of those without."""
    parts = {"rows": "Countries with an own culture", "rows_without_own": "Countries without an own culture"}
    return [
        _mean_table(results, part, title)
        for part, title in parts.items()
        if any(found[part] for found in results["readouts"].values())
    ]


def _mean_table(results: Mapping[str, Any], part: str, title: str) -> Table:
    readouts = results["readouts"]
    header = ["answers"]
    for readout in readouts:
        header += [f"{readout}: bits", "worst", "W1", "entropy"]
    rows = []
    for setting, label in ROWS.items():
        if not any(setting in found[part] for found in readouts.values()):
            continue
        cells = [label]
        for found in readouts.values():
            row = found[part].get(setting, {})
            worst = f"{row['worst_bits']:.3f} {row['worst_country']}" if row else ""
            cells += [
                _number(row.get("jsd_bits")),
                worst,
                _number(row.get("wasserstein_1")),
                _number(row.get("entropy_bits"), 2),
            ]
        rows.append(cells)
    people = ["people"]
    for found in readouts.values():
        entropy = found["diagnostics"]["people_entropy_bits" + part.removeprefix("rows")]
        people += ["0.000", "", "0.000", _number(entropy, 2)]
    caption = f"{title}: divergence from people's answers, mean over cultures; lower is better."
    return Table(header, [*rows, people], f"{caption} {results['data']['baselines']}")


def country_table(results: Mapping[str, Any], readout: str) -> Table:
    found = results["readouts"][readout]
    settings = [s for s in ROWS if s in found["rows"] or s in found["rows_without_own"]]
    rows = [
        [
            _with_culture(country, found),
            str(values["questions"]),
            str(values["dropped"]),
            *(_number(values["jsd_bits"].get(s)) for s in settings),
        ]
        for country, values in found["countries"].items()
    ]
    return Table(
        ["country (culture)", "questions", "left out", *settings], rows, f"{readout}: bits by country"
    )


def sections(results: Mapping[str, Any]) -> list[Section]:
    """The page."""
    data = results["data"]
    intro = f"{data['num_questions']} questions ({data['questions']}) of {data['file']}. {INTRODUCTION}"
    requests = results["requests"]
    if requests["failed"]:
        intro += (
            f"\n\n{requests['failed']} of {requests['requests']} requests failed; report.json lists them."
        )
    intro = "\n\n".join([intro, *results["remarks"]])
    page = [Section("Means", intro, mean_tables(results))]
    for readout, found in results["readouts"].items():
        gain, others = found["own_vs_base"], found["own_vs_others"]
        text = WHAT[readout]
        if gain:
            low, high = gain["reduction_percent_95"]
            text += (
                f" Own is {gain['reduction_percent']} % below base (95 % of resamples of the questions: "
                f"{low} to {high}), and {'' if gain['own_below_uniform'] else 'not '}below uniform."
            )
        if others["countries"]:
            text += (
                f" Own beats every other culture's adapter in {_percent(others['beats_every_other_share'])} "
                f"of {others['countries']} countries, and their mean in "
                f"{_percent(others['beats_mean_other_share'])}."
            )
        page.append(Section(f"By {readout}", text, [country_table(results, readout)], [_bars(found)]))
        matrix = {**found["matrix"], **found["matrix_without_own"]}
        if cultures := list(next(iter(matrix.values()))):
            labels = [_with_culture(country, found) for country in matrix]
            page.append(
                Section(
                    f"Every culture in every country, by {readout}",
                    "Bits; lower is nearer to the country's people. Below are countries without their own.",
                    figures=[
                        heat_map(labels, cultures, [[row[k] for k in cultures] for row in matrix.values()])
                    ],
                )
            )
        blends = found["blends"]
        if blends["cases"]:
            text = (
                f"Of {blends['resolved_cases']} cases (a pair and one of its ends), blends stay between the "
                f"ends in {_percent(blends['resolved_between_share'])} and the distance is monotone in "
                f"{_percent(blends['resolved_monotone_share'])}. Toward people ({blends['people_cases']} "
                "cases) the even blend is between the two ends in "
                f"{_percent(blends['people_between_share'])} and nearer than both in "
                f"{_percent(blends['people_lower_than_both_share'])}."
            )
            if unresolved := blends["cases"] - blends["resolved_cases"]:
                text += (
                    f" In {unresolved} further cases the ends are less than {MIN_RESOLVED_BITS} bits apart, "
                    "which bf16 rounding alone can turn around; with these the shares are "
                    f"{_percent(blends['between_share'])} and {_percent(blends['monotone_share'])}."
                )
            page.append(Section(f"Blends of two cultures, by {readout}", text, figures=_sweeps(blends)))
        page.append(Section(f"How {readout} were read", "", [_diagnostics(found)]))
    return page


def _bars(found: Mapping[str, Any]) -> Any:
    settings = [s for s in FIXED_ROWS if any(s in c["jsd_bits"] for c in found["countries"].values())]
    countries = list(found["countries"])
    figure = new_figure(max(6.0, 0.9 * len(countries)), 3.6)
    (axes,) = figure.axes
    width = 0.8 / len(settings)
    for n, setting in enumerate(settings):
        at = [i + n * width for i in range(len(countries))]
        heights = [found["countries"][c]["jsd_bits"].get(setting, 0.0) for c in countries]
        axes.bar(at, heights, width, label=setting, color=COLOURS[n])
    axes.set_xticks([i + 0.4 - width / 2 for i in range(len(countries))], countries)
    axes.set_ylabel("bits")
    add_legend(figure, 5)
    return figure


def _sweeps(blends: Mapping[str, Any]) -> list[Any]:
    figures = []
    for sweep in blends["sweeps"]:
        figure = new_figure(7.0, 3.2)
        (axes,) = figure.axes
        a, b = sweep["pair"]
        weights = blends["weights_of_the_second"]
        for n, (culture, distances) in enumerate(sweep["to_ends"].items()):
            axes.plot(weights, distances, "o-", color=COLOURS[n], label=f"to the answers of {culture}")
        for n, (country, distances) in enumerate(sweep["to_people"].items(), 2):
            colour = COLOURS[n % len(COLOURS)]
            axes.plot(weights, distances, "s--", color=colour, label=f"to people of {country}", markersize=4)
        axes.set_xlabel(f"weight of {b}; the rest is {a}", color=INK)
        axes.set_ylabel("bits")
        add_legend(figure, 2)
        figures.append(figure)
    return figures


def _diagnostics(found: Mapping[str, Any]) -> Table:
    rows = [
        [name, str(d["answers"]), f"{d['mass']:.3g}", str(d["missing_letters"])]
        for name, d in found["diagnostics"]["settings"].items()
    ]
    return Table(
        ["setting", "questions", "mass", "letters by bound"],
        rows,
        "Mass: mean probability that the answer is one of the options at all. Letters by bound: letters "
        "whose log-probability the server did not give, counted at the smallest value given",
    )


def _with_culture(country: str, found: Mapping[str, Any]) -> str:
    culture = found["countries"][country]["culture"]
    return f"{country} ({culture})" if culture else country


def _number(value: float | None, decimals: int = 3) -> str:
    return "" if value is None else f"{value:.{decimals}f}"


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.0f} %"
