"""What `eval pareto` prints and draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steer_server.evaluation.html import COLOURS, INK, Section, Table, add_legend, new_figure
from steer_server.training.preference_baselines import BASELINES

METHODS = {"panacea": "preference vector", "soup": "rewarded soup", "prompt": "told in words"}
MARKS = {"panacea": "o-", "soup": "s--", "prompt": "^:"}

INTRODUCTION = (
    "Each axis has preference pairs. Its objective J is the mean over them of σ(β Δ), where Δ is how much "
    "more than the base model the server prefers the chosen answer to the rejected one, in nats of "
    "log-probability (per token if the recipe says so), and β the axis' own in the recipe. The base model is "
    "0.5; higher is better. A sweep weighs two axes from one alone to the other alone.\n\n"
    "J and the share that moved are relative to the base model: they say which way the adapter pushes, not "
    "how often its answer would be the preferred one. An adapter that makes longer answers more probable, "
    "whatever they say, moves the share of pairs in which the longer answer is the chosen one.\n\n"
    "The hypervolume is the area that a sweep dominates above (0.5, 0.5), the base model; the inner product "
    "is the mean over the sweep of Σ λ_i J_i, what each is worth to the one who asks for it. Larger is "
    "better. Sparsity is the mean squared step between neighbours and spacing the standard deviation of "
    "distances to the nearest neighbour. Smaller is better, but a sweep that does not move has 0 as well.\n\n"
    "The preference vector is one adapter; a rewarded soup blends adapters that were trained on one axis "
    "each; told in words, the base model gets the weights in its system prompt. A fixed vector is one answer "
    "for everyone: the even one, or the one of the sweep that dominates most, chosen knowing the result."
)


def front_table(results: Mapping[str, Any]) -> Table:
    """Four metrics per pair of axes and method."""
    rows = []
    for result in results["pairs"]:
        pair = ", ".join(result["pair"])
        for method, found in result["methods"].items():
            follows = [row["spearman"] for row in found["response"].values()]
            rows.append([pair, METHODS[method], *_metrics(found["metrics"]), f"{min(follows):.3f}"])
        for name, label in (("even", "fixed, even"), ("best", "fixed, best")):
            fixed = result["fixed"][name]
            at = " ".join(f"{w:.2g}" for w in fixed["weights"])
            rows.append([pair, f"{label} ({at})", *_metrics(fixed), ""])
        rows.append([pair, "base", *_metrics(result["base"]), ""])
    return Table(
        ["axes", "method", "hypervolume", "inner product", "sparsity", "spacing", "least Spearman"],
        rows,
        "Fronts; hypervolume above (0.5, 0.5), the base model",
    )


def response_table(results: Mapping[str, Any]) -> Table:
    """How the preference vector's axes follow their own weights."""
    rows = []
    for result in results["pairs"]:
        found = result["methods"]["panacea"]
        first, last = found["points"][0], found["points"][-1]
        for axis, row in found["response"].items():
            alone, absent = (first, last) if axis == result["pair"][0] else (last, first)
            rows.append(
                [
                    f"{axis} (with {next(a for a in result['pair'] if a != axis)})",
                    f"{row['spearman']:.3f}",
                    "yes" if row["is_monotone"] else "no",
                    *(
                        f"{point[axis][measure]:.3f}"
                        for measure in ("objective", "moved_share", "likelihood_accuracy")
                        for point in (absent, alone)
                    ),
                ]
            )
    return Table(
        ["axis", "Spearman", "monotone", "J at 0", "J at 1", "moved at 0", "at 1", "likelier at 0", "at 1"],
        rows,
        "Preference vector: each axis at its own weight 0 and 1. Moved: share of pairs with Δ > 0 (base "
        "0.5). Likelier: share whose chosen answer is the more probable one",
    )


def axis_table(results: Mapping[str, Any]) -> Table:
    """Each axis alone, beside what needs no model on the same pairs."""
    alone: dict[str, Mapping[str, Any]] = {}
    for result in results["pairs"]:
        points = result["methods"]["panacea"]["points"]
        for axis, point in zip(result["pair"], (points[0], points[-1]), strict=True):
            alone[axis] = point[axis]
    rows = [
        [
            axis,
            str(counts["scored"]),
            f"{alone[axis]['moved_share']:.3f}",
            *(f"{found['likelihood_accuracy']:.3f}" for found in (results["base"][axis], alone[axis])),
            *(f"{counts['baselines'][name]:.3f}" for name in BASELINES),
        ]
        for axis, counts in results["data"]["axes"].items()
    ]
    learnt = "the other pairs" if results["data"]["split"] == "all" else "the pairs for training"
    return Table(
        ["axis", "pairs", "moved", "likelier, base", "likelier", "longer", "shorter", "bag of words"],
        rows,
        "Each axis at weight 1, relative to the base model (moved) and as it is (likelier), beside always "
        "the longer answer, always the shorter, and a bag of words on prompt and answers, learnt on "
        f"{learnt}",
    )


def verdict_lines(results: Mapping[str, Any]) -> list[str]:
    word = {True: "yes", False: "no", None: "open"}
    return [f"{v['must_show']}: {word[v['holds']]}; {v['text']}" for v in results["verdicts"]]


def sections(results: Mapping[str, Any]) -> list[Section]:
    """The page."""
    requests, data = results["requests"], results["data"]
    intro = INTRODUCTION
    if dropped := sum(counts["dropped"] for counts in data["axes"].values()):
        intro += f"\n\n{dropped} preference pairs were left out, as not every setting answered them."
    if requests["failed"]:
        intro += (
            f"\n\n{requests['failed']} of {requests['requests']} requests failed; report.json lists them."
        )
    verdicts = "\n\n".join([*verdict_lines(results), *results["remarks"]])
    page = [
        Section("What is measured", intro, [pair_table(results)]),
        Section("Result", verdicts, [front_table(results), response_table(results), axis_table(results)]),
    ]
    for result in results["pairs"]:
        a, b = result["pair"]
        gains = [
            f"{METHODS[method]} {gain['difference']:+.4f} ({gain['difference_95'][0]:+.4f} to "
            f"{gain['difference_95'][1]:+.4f})"
            for method, gain in result["hypervolume_gain"].items()
        ]
        text = (
            "Hypervolume of the preference vector less that of others, with the middle 95 % over resamples "
            f"of the preference pairs: {'; '.join(gains)}."
            if gains
            else ""
        )
        figures = [_front(result), _response(result)]
        page.append(Section(f"{a} and {b}", text, [_sweep_table(result)], figures))
    return page


def pair_table(results: Mapping[str, Any]) -> Table:
    """Which pairs are scored, and how many are not."""
    counts = ("in_data", "left_out_as_training", "left_out_as_near_copies", "asked", "scored", "dropped")
    rows = [
        [axis, f"{found['beta']:g}", *(str(found[count]) for count in counts)]
        for axis, found in results["data"]["axes"].items()
    ]
    cost, data = results["cost"], results["data"]
    left_out = {
        "held-out": "those for training and near copies of them are left out",
        "all": "none is left out, so the adapter must have been trained on other data",
    }
    return Table(
        ["axis", "β", "pairs", "for training", "near copies of those", "asked", "scored", "not answered"],
        rows,
        f"{data['recipe']}, {data['split']} pairs: {left_out[data['split']]}; "
        f"{cost['settings']} settings, {cost['requests']} requests of two answers, {cost['tokens']} tokens",
    )


def _sweep_table(result: Mapping[str, Any]) -> Table:
    a, b = result["pair"]
    methods = list(result["methods"])
    rows = []
    for n, point in enumerate(result["methods"]["panacea"]["points"]):
        cells = [f"{point['weights'][0]:.3g} {a}, {point['weights'][1]:.3g} {b}"]
        for method in methods:
            there = result["methods"][method]["points"][n]
            cells += [f"{there[axis]['objective']:.4f}" for axis in (a, b)]
        rows.append(cells)
    header = [f"{METHODS[method]}: J {axis}" for method in methods for axis in (a, b)]
    return Table(["weights", *header], rows)


def _front(result: Mapping[str, Any]) -> Any:
    figure = new_figure(6.5, 4.5)
    (axes,) = figure.axes
    a, b = result["pair"]
    for n, (method, found) in enumerate(result["methods"].items()):
        x, y = ([point[axis]["objective"] for point in found["points"]] for axis in (a, b))
        axes.plot(x, y, MARKS[method], color=COLOURS[n], label=METHODS[method], markersize=5)
    best = result["fixed"]["best"]["objectives"]
    axes.plot(*[[v] for v in best], "*", color=COLOURS[4], markersize=14, label="best fixed vector", zorder=0)
    axes.plot([0.5], [0.5], "x", color=INK, label="base model")
    for line in (axes.axhline, axes.axvline):
        line(0.5, color=INK, linewidth=0.5, alpha=0.5)
    axes.set_xlabel(f"J of {a}", color=INK)
    axes.set_ylabel(f"J of {b}", color=INK)
    add_legend(figure, 3)
    return figure


def _response(result: Mapping[str, Any]) -> Any:
    figure = new_figure(6.5, 3.2)
    (axes,) = figure.axes
    for n, axis in enumerate(result["pair"]):
        for method, found in result["methods"].items():
            weights = [point["weights"][n] for point in found["points"]]
            values = [point[axis]["objective"] for point in found["points"]]
            label = f"{axis}, {METHODS[method]}"
            axes.plot(weights, values, MARKS[method], color=COLOURS[n], label=label, markersize=4)
    axes.set_xlabel("weight of the axis", color=INK)
    axes.set_ylabel("J of the axis", color=INK)
    add_legend(figure, 2)
    return figure


def _metrics(found: Mapping[str, Any]) -> list[str]:
    sparsity, spacing = ("" if found[k] is None else f"{found[k]:.2g}" for k in ("sparsity", "spacing"))
    return [f"{found['hypervolume']:.4f}", f"{found['inner_product']:.4f}", sparsity, spacing]
