"""Planning align_pro: which prompter, and at what gate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steer_server.catalogue.manifest import Manifest
from steer_server.catalogue.snapshot import Catalogue, LoadedAdapter
from steer_server.errors import DeniedError, QuarantinedError, RequestError, UnknownNameError
from steer_server.steering.plan import SteeringPlan, build_plan, describe_catalogue
from steer_server.steering.policy import Policy
from steer_server.steering.spec import parse_spec
from tests.support.adapters import TINY


def prompter(name: str) -> LoadedAdapter:
    files = [
        {"path": path, "size_bytes": 1, "sha256": "0" * 64}
        for path in ("adapter_config.json", "adapter_model.safetensors")
    ]
    manifest = Manifest.model_validate(
        {
            "schema_version": 1,
            "name": f"prompter-{name}",
            "version": "1.0.0",
            "kind": "prompter",
            "base_model": TINY,
            "prompter": {"id": name, "template_version": 1},
            "files": files,
        }
    )
    return LoadedAdapter(manifest, Path("nowhere"), rank=4)


ONE, TWO = Catalogue.of([prompter("clear")]), Catalogue.of([prompter("clear"), prompter("gentle")])


def plan(catalogue: Catalogue = ONE, policy: Policy | None = None, **steering: Any) -> SteeringPlan:
    spec = parse_spec({"method": "align_pro", **steering})
    return build_plan(spec, catalogue, policy or Policy())


def test_the_only_prompter_need_not_be_named() -> None:
    found = plan()
    (gate,) = found.adapters
    assert (gate.name, gate.weight, found.method) == ("prompter-clear", 1.0, "align_pro")
    assert plan(options={"prompter": "clear"}) == found
    assert SteeringPlan.from_json(found.to_json()) == found


def test_strength_scales_its_gate_and_0_leaves_it_out() -> None:
    (gate,) = plan(strength=0.25).adapters
    assert gate.weight == 0.25
    assert plan(strength=0).is_base
    assert len({plan(strength=strength).digest for strength in (0, 0.5, 1)}) == 3


def test_of_several_one_must_be_named_and_they_are_listed() -> None:
    with pytest.raises(RequestError, match="Name one of: clear, gentle") as caught:
        plan(TWO)
    assert (caught.value.code, caught.value.param) == ("prompter_required", "steering.options.prompter")
    assert plan(TWO, options={"prompter": "gentle"}).adapters[0].name == "prompter-gentle"


def test_one_that_is_denied_is_no_choice() -> None:
    policy = Policy(denied_adapters=frozenset({"prompter-gentle"}))
    assert plan(TWO, policy).adapters[0].name == "prompter-clear"
    with pytest.raises(DeniedError):
        plan(TWO, policy, options={"prompter": "gentle"})
    assert [one["id"] for one in describe_catalogue(TWO, policy, {})["prompters"]] == ["clear"]


def test_without_any_it_is_refused() -> None:
    with pytest.raises(RequestError, match="No prompter is loaded"):
        plan(Catalogue())


def test_an_unknown_one_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'clear'"):
        plan(options={"prompter": "claer"})


def test_a_quarantined_one_is_refused_by_name() -> None:
    catalogue = replace(Catalogue(), quarantined={"clear": "prompter-clear@1.0.0"})
    with pytest.raises(QuarantinedError):
        plan(catalogue, options={"prompter": "clear"})


@pytest.mark.parametrize("key", ["cultures", "values"])
def test_cultures_and_values_are_refused_with_the_way_to_have_them(key: str) -> None:
    with pytest.raises(RequestError, match=r"options\.prompter") as caught:
        plan(**{key: {"amber": 1.0}})
    assert caught.value.param == f"steering.{key}"


@pytest.mark.parametrize("wrong", [1, ["clear"], {}])
def test_a_prompters_id_is_text(wrong: Any) -> None:
    with pytest.raises(RequestError) as caught:
        plan(options={"prompter": wrong})
    assert caught.value.param == "steering.options.prompter"
