"""The options of diffpo: their defaults, and what is refused with which field."""

from __future__ import annotations

from typing import Any

import pytest

from steer_server.errors import PolicyError, RequestError
from steer_server.steering.denoising import MAX_STATEMENT_CHARACTERS, Denoising
from steer_server.steering.plan import build_plan
from steer_server.steering.policy import Policy
from steer_server.steering.spec import SteeringSpec, parse_spec
from tests.support.adapters import planned_catalogue

CATALOGUE = planned_catalogue(["a", "b"], {"compass": ["helpful", "harmless"]})


def spec(options: dict[str, Any] | None = None, **more: Any) -> SteeringSpec:
    return parse_spec({"cultures": {"a": 1.0}, "method": "diffpo", "options": options or {}, **more})


def test_without_options_it_has_its_defaults() -> None:
    assert spec().denoising == Denoising(loops=6, guidance=1.0, variant="spans", candidates=4)
    assert parse_spec({"cultures": {"a": 1}}).denoising is None


def test_every_option_is_taken() -> None:
    options = {"loops": 2, "guidance": 1.5, "draft": "So.", "variant": "conflicts", "candidates": 8}
    assert spec(options).denoising == Denoising(**options)
    told = parse_spec({"method": "diffpo", "options": {"statement": "Be kind."}}).denoising
    assert told == Denoising(statement="Be kind.")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no loops": ({"loops": 0}, "loops"),
    "half a loop": ({"loops": 1.5}, "loops"),
    "no candidates": ({"candidates": 0}, "candidates"),
    "guidance of 0": ({"guidance": 0}, "guidance"),
    "guidance in words": ({"guidance": "much"}, "guidance"),
    "an empty draft": ({"draft": ""}, "draft"),
    "a draft that is no text": ({"draft": ["So."]}, "draft"),
    "an unknown variant": ({"variant": "words"}, "variant"),
    "a variant that is no text": ({"variant": ["spans"]}, "variant"),
    "a statement beside cultures": ({"statement": "Be kind."}, "statement"),
    "a statement without end": ({"statement": "x" * (MAX_STATEMENT_CHARACTERS + 1)}, "statement"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_option_is_refused_by_name(name: str) -> None:
    options, field = WRONG[name]
    with pytest.raises(RequestError) as caught:
        spec(options)
    assert caught.value.param == f"steering.options.{field}"


def test_something_to_move_toward_is_needed() -> None:
    with pytest.raises(RequestError) as caught:
        parse_spec({"method": "diffpo"})
    assert caught.value.param == "steering.options.statement"


def test_a_statement_has_nothing_that_guidance_scales() -> None:
    with pytest.raises(RequestError) as caught:
        parse_spec({"method": "diffpo", "options": {"statement": "Be kind.", "guidance": 2}})
    assert caught.value.param == "steering.options.guidance"


@pytest.mark.parametrize(
    ("options", "strength", "field"),
    [
        ({"loops": 13}, 1, "loops"),
        ({"candidates": 17}, 1, "candidates"),
        ({"guidance": 2.0}, 1.5, "guidance"),
    ],
)
def test_the_policy_bounds_them(options: dict[str, Any], strength: float, field: str) -> None:
    with pytest.raises(PolicyError) as caught:
        build_plan(spec(options, strength=strength), CATALOGUE, Policy())
    assert caught.value.param == f"steering.options.{field}"


def test_a_scaled_plan_is_that_of_the_scaled_strength() -> None:
    values = {"helpful": 0.7, "harmless": 0.3}
    plan = build_plan(spec(strength=0.5, values=values), CATALOGUE, Policy())
    doubled = build_plan(spec(strength=1.0, values=values), CATALOGUE, Policy())
    assert plan.scaled(2.0) == doubled and plan.scaled(1.0) == plan
    assert plan.scaled(2.0).digest != plan.digest
