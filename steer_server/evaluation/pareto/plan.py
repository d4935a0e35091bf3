"""What `eval pareto` asks for: for every pair of value axes, a sweep of weights by every method.

panacea  `steering.values`: the preference vector of one adapter
soup     `steering.cultures`: adapters of one axis each, blended with the same weights (Rewarded Soups)
prompt   no adapter; a system prompt says the weights in words

The ends of a sweep are one axis alone and belong to every pair with that axis, so they are asked once.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from steer_server.errors import EvaluationError
from steer_server.evaluation.answers import Setting
from steer_server.evaluation.client import ServerInfo
from steer_server.evaluation.pareto.fronts import Point
from steer_server.training.panacea_recipe import PanaceaRecipe

Method = Literal["panacea", "soup", "prompt"]
Pair = tuple[str, str]
"""Two value axes, in the recipe's order."""

BASE = Setting("base")


@dataclass(frozen=True)
class Sweep:
    method: Method
    pair: Pair
    settings: tuple[Setting, ...]
    """One for each of `sweep_weights`."""


@dataclass(frozen=True)
class Plan:
    weights: tuple[Point, ...]
    """Of the pair's (first, second) axis, in the order of every sweep."""
    pairs: tuple[Pair, ...]
    sweeps: tuple[Sweep, ...]
    remarks: tuple[str, ...]
    """What was left out or differs from what one would expect, for the report."""

    @property
    def axes(self) -> list[str]:
        return list(dict.fromkeys(axis for pair in self.pairs for axis in pair))

    def cells(self) -> Iterator[tuple[Setting, str]]:
        """Every (setting, axis whose pairs are asked) once; those of a setting are next to each other."""
        asked: dict[Setting, dict[str, None]] = {BASE: dict.fromkeys(self.axes)}
        for sweep in self.sweeps:
            for setting in sweep.settings:
                asked.setdefault(setting, {}).update(dict.fromkeys(sweep.pair))
        return ((setting, axis) for setting, axes in asked.items() for axis in axes)

    def without(self, method: Method, remark: str) -> Plan:
        kept = tuple(sweep for sweep in self.sweeps if sweep.method != method)
        return replace(self, sweeps=kept, remarks=(*self.remarks, remark))


def sweep_weights(num_points: int) -> tuple[Point, ...]:
    """From (1, 0) to (0, 1) in even steps.

    Raises: EvaluationError for an even number, which leaves out (0.5, 0.5), or fewer than three.
    """
    if num_points < 3 or num_points % 2 == 0:
        raise EvaluationError(f"a sweep needs an odd number of points, at least 3, not {num_points}")
    last = num_points - 1
    return tuple(((last - i) / last, i / last) for i in range(num_points))


def plan_sweeps(recipe: PanaceaRecipe, server: ServerInfo, num_points: int, soups: Mapping[str, str]) -> Plan:
    """The sweeps of every pair of axes that the recipe has and one adapter of the server serves.

    Args:
        soups: axis -> culture that was trained on this axis alone. An axis that is not named has the
            culture `<recipe>-<axis>` where the server offers one.

    Raises: EvaluationError when no pair is left, or `soups` names what there is not.
    """
    weights = sweep_weights(num_points)
    adapter = {axis.id: axis.adapter for axis in server.axes}
    named = [axis.axis for axis in recipe.axes]
    pairs = tuple(
        (a, b)
        for a, b in itertools.combinations(named, 2)
        if a in adapter and b in adapter and adapter[a] == adapter[b]
    )
    if not pairs:
        raise EvaluationError(
            f"no adapter of the server serves two axes of {recipe.name} ({', '.join(named)}); "
            f"the server's axes: {', '.join(sorted(adapter)) or 'none'}"
        )
    remarks = []
    if missing := [axis for axis in named if axis not in adapter]:
        remarks.append(f"The server does not serve {', '.join(missing)}.")
    for title in sorted({adapter[a] for a, _ in pairs}):
        if title.split("@")[0] != recipe.name:
            remarks.append(
                f"The axes are of {title}, which has not the recipe's name, {recipe.name}: it may have been "
                "trained on pairs that are held out here."
            )
    if server.value_floors:
        floors = ", ".join(f"{axis} {floor:g}" for axis, floor in server.value_floors)
        remarks.append(f"The server's policy has floors ({floors}): it raises what the sweeps ask for.")
    mixed, remark = _soup_cultures(recipe, server, soups)
    described = {axis.axis: _aim(axis.description) for axis in recipe.axes}
    sweeps = []
    for a, b in pairs:
        vectors = [{a: w, b: v} for w, v in weights]
        panacea = [Setting.of_values(_name("panacea", vector), vector) for vector in vectors]
        sweeps.append(Sweep("panacea", (a, b), tuple(panacea)))
        if a in mixed and b in mixed:
            blends = [
                Setting.of_blend(_name("soup", vector), {mixed[axis]: w for axis, w in vector.items()})
                for vector in vectors
            ]
            sweeps.append(Sweep("soup", (a, b), tuple(blends)))
        told = [Setting(_name("prompt", v), system=system_prompt(v, described)) for v in vectors]
        sweeps.append(Sweep("prompt", (a, b), tuple(told)))
    return Plan(weights, pairs, tuple(sweeps), (*remarks, *([remark] if remark else [])))


def parse_soups(given: Sequence[str]) -> dict[str, str]:
    """`AXIS=CULTURE` as a mapping.

    Raises: EvaluationError for another form.
    """
    soups = {}
    for text in given:
        axis, equals, culture = text.partition("=")
        if not (axis and equals and culture) or axis in soups:
            raise EvaluationError(f"--soup takes AXIS=CULTURE, each axis once, not {text!r}")
        soups[axis] = culture
    return soups


def system_prompt(vector: Mapping[str, float], described: Mapping[str, str]) -> str:
    """The weights in words; axes of weight 0 are not mentioned."""
    aims = [f"{100 * w:.3g} % {axis} ({described[axis]})" for axis, w in vector.items() if w]
    return f"Answer by these priorities: {' and '.join(aims)}."


def _aim(description: str) -> str:
    """The first sentence of an axis' description, without its full stop."""
    return re.split(r"\.\s+(?=[A-Z])", description)[0].rstrip(".")


def _soup_cultures(
    recipe: PanaceaRecipe, server: ServerInfo, soups: Mapping[str, str]
) -> tuple[dict[str, str], str]:
    """Axis -> its culture, and a remark on those that have none."""
    offered = {culture.id for culture in server.cultures}
    axes = [axis.axis for axis in recipe.axes]
    if unknown := sorted(set(soups) - set(axes)):
        raise EvaluationError(f"--soup names {', '.join(unknown)}; the recipe's axes are {', '.join(axes)}")
    if absent := sorted(set(soups.values()) - offered):
        raise EvaluationError(f"the server has no culture {', '.join(absent)}; it has {sorted(offered)}")
    wanted = {axis: soups.get(axis, f"{recipe.name}-{axis}") for axis in axes}
    found = {axis: culture for axis, culture in wanted.items() if culture in offered}
    missing = [culture for culture in wanted.values() if culture not in offered]
    if not missing:
        return found, ""
    extent = "left out of some pairs" if len(found) > 1 else "not measured"
    return found, (
        f"Rewarded Soups are {extent}: the server has no culture {', '.join(missing)} "
        "(`train panacea --axis … --as-lora` makes them, `--soup` names others)."
    )


def _name(method: str, vector: Mapping[str, float]) -> str:
    """The same for equal vectors, whichever pair they are of."""
    parts = [axis if w == 1 else f"{w:.3g} {axis}" for axis, w in vector.items() if w]
    return f"{method} {' + '.join(parts)}"
