from __future__ import annotations

from typing import Any

import pytest

from steer_server.errors import EvaluationError
from steer_server.evaluation.answers import Setting
from steer_server.evaluation.client import Culture, OfferedAxis, ServerInfo
from steer_server.evaluation.pareto.plan import (
    BASE,
    Plan,
    parse_soups,
    plan_sweeps,
    sweep_weights,
    system_prompt,
)
from steer_server.training.panacea_recipe import PanaceaRecipe

AXES = ("kind", "brief", "bold")
RECIPE = PanaceaRecipe.model_validate(
    {
        "name": "small",
        "sources": {
            axis: {"file": f"{axis}.gz", "reader": "choices", "source": "made up", "licence": "none"}
            for axis in AXES
        },
        "axes": [
            {"axis": axis, "description": f"Is {axis}, e.g. to all. Not tested.", "sources": [axis]}
            for axis in AXES
        ],
    }
)


def info(cultures: list[str] | None = None, axes: dict[str, str] | None = None, **options: Any) -> ServerInfo:
    offered = dict.fromkeys(AXES, "small@1.0.0") if axes is None else axes
    return ServerInfo(
        "http://test",
        "tiny",
        tuple(Culture(c, (), c) for c in cultures or []),
        (),
        tuple(OfferedAxis(axis, adapter) for axis, adapter in offered.items()),
        **options,
    )


def plan(server: ServerInfo, num_points: int = 3, soups: dict[str, str] | None = None) -> Plan:
    return plan_sweeps(RECIPE, server, num_points, soups or {})


def methods(found: Plan) -> dict[str, list[tuple[str, str]]]:
    pairs: dict[str, list[tuple[str, str]]] = {}
    for sweep in found.sweeps:
        pairs.setdefault(sweep.method, []).append(sweep.pair)
    return pairs


def test_weights_run_evenly_from_one_axis_to_the_other() -> None:
    assert sweep_weights(5) == ((1, 0), (0.75, 0.25), (0.5, 0.5), (0.25, 0.75), (0, 1))
    assert all(sum(weight) == pytest.approx(1) for weight in sweep_weights(11))
    for bad in (1, 4):
        with pytest.raises(EvaluationError, match="odd"):
            sweep_weights(bad)


def test_every_vector_is_asked_once_and_only_where_a_pair_needs_it() -> None:
    found = plan(info(), num_points=5)
    assert found.pairs == (("kind", "brief"), ("kind", "bold"), ("brief", "bold"))
    cells = list(found.cells())
    assert len(cells) == len(set(cells))
    panacea = [(setting, axis) for setting, axis in cells if setting.values]
    # Three vertices with all axes each, and three points inside each of three pairs with two axes.
    assert len({setting.values for setting, _ in panacea}) == 3 + 3 * 3
    assert len(panacea) == 3 * 3 + 3 * 3 * 2
    vertex = Setting.of_values("panacea kind", {"kind": 1.0, "bold": 0.0})
    assert [axis for setting, axis in cells if setting == vertex] == ["kind", "brief", "bold"]
    assert [axis for setting, axis in cells if setting == BASE] == ["kind", "brief", "bold"]
    settings = [setting for setting, _ in cells]
    assert settings == sorted(settings, key=settings.index), "a setting's cells are next to each other"


def test_soups_are_the_cultures_named_after_recipe_and_axis_or_those_given() -> None:
    found = plan(info(["small-kind", "other", "small-bold"]), soups={"brief": "other"})
    assert methods(found)["soup"] == list(found.pairs) and not found.remarks
    (sweep, *_) = (s for s in found.sweeps if s.method == "soup")
    assert [s.blend for s in sweep.settings] == [
        (("small-kind", 1.0),),
        (("other", 0.5), ("small-kind", 0.5)),
        (("other", 1.0),),
    ]


def test_a_soup_that_lacks_an_adapter_is_left_out_with_a_remark() -> None:
    found = plan(info(["small-kind", "small-bold"]))
    assert methods(found)["soup"] == [("kind", "bold")]
    assert "left out of some pairs: the server has no culture small-brief" in found.remarks[0]
    found = plan(info(["small-kind"]))
    assert "soup" not in methods(found) and "not measured" in found.remarks[0]


@pytest.mark.parametrize(
    ("soups", "problem"), [({"kind": "nobody"}, "no culture nobody"), ({"loud": "x"}, "--soup names loud")]
)
def test_a_soup_of_something_unknown_is_an_error(soups: dict[str, str], problem: str) -> None:
    with pytest.raises(EvaluationError, match=problem):
        plan(info(["x"]), soups=soups)


def test_soups_are_given_as_axis_and_culture() -> None:
    assert parse_soups(["a=b", "c=d=e"]) == {"a": "b", "c": "d=e"}
    for bad in (["a"], ["=b"], ["a="], ["a=b", "a=c"]):
        with pytest.raises(EvaluationError, match="AXIS=CULTURE"):
            parse_soups(bad)


def test_only_axes_of_one_adapter_are_weighed_against_each_other() -> None:
    found = plan(info(axes={"kind": "small@1.0.0", "brief": "other@2.0.0", "bold": "other@2.0.0"}))
    assert found.pairs == (("brief", "bold"),) and found.axes == ["brief", "bold"]
    assert any("other@2.0.0, which has not the recipe's name" in remark for remark in found.remarks)
    assert any(
        "does not serve bold" in r for r in plan(info(axes=dict.fromkeys(AXES[:2], "small@1"))).remarks
    )
    with pytest.raises(EvaluationError, match=r"serves two axes of small .*: none"):
        plan(info(axes={}))


def test_floors_of_the_policy_are_remarked_on() -> None:
    (*_, remark) = plan(
        info(["small-kind", "small-brief", "small-bold"], value_floors=(("kind", 0.2),))
    ).remarks
    assert "kind 0.2" in remark and "raises" in remark


def test_the_prompt_states_the_weights_and_an_axis_alone_is_the_same_prompt_in_every_pair() -> None:
    described = {"kind": "Is kind", "brief": "Is brief"}
    assert system_prompt({"kind": 0.7, "brief": 0.3}, described) == (
        "Answer by these priorities: 70 % kind (Is kind) and 30 % brief (Is brief)."
    )
    prompts = [s.system for sweep in plan(info()).sweeps if sweep.method == "prompt" for s in sweep.settings]
    assert len(prompts) == 9 and len(set(prompts)) == 6
    assert "Answer by these priorities: 100 % kind (Is kind, e.g. to all)." in prompts
