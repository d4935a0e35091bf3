"""Plans with a `pareto-expert`: a preference vector becomes gates on its anchors' ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer_server.catalogue.manifest import Manifest
from steer_server.catalogue.snapshot import Catalogue, LoadedAdapter
from steer_server.errors import RequestError
from steer_server.steering.plan import BASE_PLAN, SteeringPlan, build_plan, describe_catalogue, quantise
from steer_server.steering.policy import Policy
from steer_server.steering.spec import SteeringSpec
from tests.support.adapters import TINY, planned_catalogue

VECTORS = {
    "kind": {"helpful": 1.0},
    "safe": {"harmless": 1.0},
    "both": {"helpful": 0.6, "harmless": 0.4},
}
RANKS = {"kind": (0, 2), "safe": (5, 6), "both": (2, 5)}
OPEN = Policy()


def expert(order: tuple[str, ...] = ("kind", "safe", "both")) -> LoadedAdapter:
    """Six ranks, of three anchors."""
    document = {
        "schema_version": 1,
        "name": "experts",
        "version": "1.0.0",
        "kind": "pareto-expert",
        "base_model": TINY,
        "axes": [{"id": "helpful"}, {"id": "harmless"}],
        "anchors": [{"vector": VECTORS[name], "ranks": RANKS[name]} for name in order],
        "files": [
            {"path": path, "size_bytes": 1, "sha256": "0" * 64}
            for path in ("adapter_config.json", "adapter_model.safetensors")
        ],
    }
    return LoadedAdapter(Manifest.model_validate(document), Path("nowhere"), rank=6)


CATALOGUE = Catalogue.of([expert(), *planned_catalogue(list(VECTORS), {"compass": ["bold"]}).adapters])


def plan_of(
    values: dict[str, float], strength: float = 1.0, policy: Policy = OPEN, catalogue: Catalogue = CATALOGUE
) -> SteeringPlan:
    return build_plan(SteeringSpec(values=values, strength=strength), catalogue, policy)


def gates_of(plan: SteeringPlan) -> list[float]:
    (gate,) = plan.adapters
    return gate.gates(6)


@pytest.mark.parametrize("name", VECTORS)
def test_at_an_anchor_its_ranks_have_gate_one_and_the_others_zero(name: str) -> None:
    first, stop = RANKS[name]
    assert gates_of(plan_of(VECTORS[name])) == [float(first <= rank < stop) for rank in range(6)]


def test_between_two_anchors_the_two_are_blended_and_strength_scales_them() -> None:
    assert gates_of(plan_of({"helpful": 8, "harmless": 2})) == [0.5, 0.5, 0.5, 0.5, 0.5, 0.0]
    assert gates_of(plan_of({"helpful": 0.3, "harmless": 0.7}, 2.0)) == [0, 0, 1.0, 1.0, 1.0, 1.0]


@given(st.floats(0, 1), st.floats(0, 2))
def test_gates_are_those_of_the_anchors_as_cultures_of_their_own(share: float, strength: float) -> None:
    """With the weights that the blend of the anchors' vectors has: helpful = w_kind + 0.6 w_both."""
    values = {"helpful": share, "harmless": 1 - share}
    both = share / 0.6 if share < 0.6 else (1 - share) / 0.4
    weights = {
        "kind": 0.0 if share < 0.6 else 1 - both,
        "safe": 1 - both if share < 0.6 else 0.0,
        "both": both,
    }
    cultures = build_plan(SteeringSpec(cultures=weights, strength=strength), CATALOGUE, OPEN)
    apart = {gate.name: gate.weight for gate in cultures.adapters}
    plan = plan_of(values, strength)
    together = gates_of(plan) if plan.adapters else [0.0] * 6
    for name, (first, stop) in RANKS.items():
        # Weights that lie on the border between two steps may be rounded either way.
        assert together[first:stop] == pytest.approx([apart.get(name, 0.0)] * (stop - first), abs=0.0011)
    assert plan.is_base == (not any(together))


@given(st.floats(0.01, 5), st.floats(0.01, 5))
def test_only_the_direction_of_the_vector_counts(helpful: float, harmless: float) -> None:
    plan = plan_of({"helpful": helpful, "harmless": harmless})
    total = helpful + harmless
    scaled = plan_of({"harmless": harmless / total, "helpful": helpful / total})
    assert gates_of(plan) == pytest.approx(gates_of(scaled), abs=0.0011)
    assert plan.describe()["values"] == pytest.approx(scaled.describe()["values"], abs=0.0011)


def test_strength_zero_is_the_base_plan_and_so_is_one_too_small_for_any_gate() -> None:
    assert plan_of({"helpful": 1}, 0.0) == SteeringPlan("adapters", (), (("harmless", 0.0), ("helpful", 1.0)))
    small = plan_of({"helpful": 0.8, "harmless": 0.2}, 0.0009)
    assert small.is_base and small.digest == BASE_PLAN.digest
    assert quantise(0.0009) == 0.001


def test_the_digest_covers_the_gates_and_survives_the_journey_to_the_worker() -> None:
    plans = [plan_of({"helpful": share, "harmless": 1 - share}) for share in (0.2, 0.6, 0.601, 1.0)]
    assert len({plan.digest for plan in plans}) == 4
    travelled = SteeringPlan.from_json(plans[1].to_json())
    assert travelled == plans[1] and travelled.digest == plans[1].digest


def test_the_order_of_the_manifests_anchors_is_irrelevant() -> None:
    other = Catalogue.of([expert(("both", "safe", "kind"))])
    for share in (0.0, 0.3, 0.6, 0.9):
        values = {"helpful": share, "harmless": 1 - share}
        assert gates_of(plan_of(values)) == gates_of(plan_of(values, catalogue=other))


def test_floors_apply_before_anchors_are_looked_for() -> None:
    plan = plan_of({"helpful": 1.0}, policy=Policy(value_floors={"harmless": 0.4}))
    assert plan.describe()["values"] == {"helpful": 0.6, "harmless": 0.4}
    assert gates_of(plan) == [0, 0, 1.0, 1.0, 1.0, 0]


def test_the_answer_says_that_the_adapter_was_applied_at_the_requests_strength() -> None:
    (applied,) = plan_of({"harmless": 1.0}, 0.5).describe()["applied"]
    assert applied == {"adapter": "experts@1.0.0", "weight": 0.5}


def test_it_blends_with_cultures_and_not_with_another_adapters_axes() -> None:
    spec = SteeringSpec(cultures={"kind": 0.5}, values={"harmless": 1.0})
    assert {gate.name for gate in build_plan(spec, CATALOGUE, OPEN).adapters} == {"kind", "experts"}
    with pytest.raises(RequestError, match="different adapters"):
        plan_of({"helpful": 1.0, "bold": 1.0})


def test_its_axes_are_offered_like_any_others() -> None:
    offered = {v["id"]: (v["adapter"], v["range"]) for v in describe_catalogue(CATALOGUE, OPEN, {})["values"]}
    assert offered == {
        "helpful": ("experts@1.0.0", [0.0, 1.0]),
        "harmless": ("experts@1.0.0", [0.0, 1.0]),
        "bold": ("compass@1.0.0", [0.0, 1.0]),
    }
