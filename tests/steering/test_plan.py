import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer_server.errors import DeniedError, PolicyError, RequestError, UnknownNameError
from steer_server.steering.plan import BASE_PLAN, SteeringPlan, build_plan, describe_catalogue, quantise
from steer_server.steering.policy import Policy
from steer_server.steering.spec import SteeringSpec
from tests.support.adapters import planned_catalogue

CATALOGUE = planned_catalogue(["a", "b", "c"], {"compass": ["helpful", "harmless"], "other": ["bold"]})
OPEN = Policy()


def plan_of(policy: Policy = OPEN, **spec: object) -> SteeringPlan:
    return build_plan(SteeringSpec(**spec), CATALOGUE, policy)  # type: ignore[arg-type]


def gates_of(plan: SteeringPlan) -> dict[str, float]:
    return {adapter.name: adapter.weight for adapter in plan.adapters}


weights = st.dictionaries(
    st.sampled_from(["a", "b", "c"]), st.floats(0.001, 1, allow_nan=False), min_size=1, max_size=3
)


@given(weights)
def test_the_order_of_cultures_is_irrelevant(cultures: dict[str, float]) -> None:
    backwards = dict(reversed(cultures.items()))
    assert plan_of(cultures=cultures).digest == plan_of(cultures=backwards).digest


@given(weights, st.floats(0, 2))
def test_a_gate_is_the_quantised_weight_times_strength(cultures: dict[str, float], strength: float) -> None:
    expected = {name: quantise(w * strength) for name, w in cultures.items() if quantise(w * strength)}
    assert gates_of(plan_of(cultures=cultures, strength=strength)) == expected


@given(weights)
def test_a_plan_survives_its_journey_to_the_worker(cultures: dict[str, float]) -> None:
    plan = plan_of(cultures=cultures, values={"helpful": 1.0})
    travelled = SteeringPlan.from_json(plan.to_json())
    assert travelled == plan and travelled.digest == plan.digest


def test_strength_zero_is_the_base_plan() -> None:
    plan = plan_of(cultures={"a": 1.0}, strength=0.0)
    assert plan.is_base and plan.digest == BASE_PLAN.digest


def test_a_weight_of_zero_beside_others_is_left_out() -> None:
    assert plan_of(cultures={"a": 1.0, "b": 0.0}).digest == plan_of(cultures={"a": 1.0}).digest


def test_weights_closer_than_the_step_are_one_plan_and_further_apart_are_two() -> None:
    assert plan_of(cultures={"a": 0.5}).digest == plan_of(cultures={"a": 0.5004}).digest
    assert plan_of(cultures={"a": 0.5}).digest != plan_of(cultures={"a": 0.501}).digest


def test_the_digest_covers_the_adapters_contents() -> None:
    other = planned_catalogue(["a"], {})
    object.__setattr__(other.cultures["a"], "digest", "f" * 64)
    spec = SteeringSpec(cultures={"a": 1.0})
    assert build_plan(spec, other, OPEN).digest != build_plan(spec, CATALOGUE, OPEN).digest


def test_a_preference_vector_gates_shared_ranks_by_strength_and_axes_by_share() -> None:
    (gate,) = plan_of(values={"helpful": 3.0, "harmless": 1.0}, strength=0.5).adapters
    assert gate.gates(rank=4) == [0.5, 0.5, 0.375, 0.125]


def test_an_axis_that_is_not_named_gets_nothing() -> None:
    (gate,) = plan_of(values={"helpful": 2.0}).adapters
    assert gate.gates(rank=4) == [1.0, 1.0, 1.0, 0.0]


def test_values_are_reported_after_the_policys_floors() -> None:
    policy = Policy(value_floors={"harmless": 0.2})
    plan = plan_of(policy, values={"helpful": 1.0})
    assert plan.describe()["values"] == {"harmless": 0.2, "helpful": 0.8}


def test_axes_of_two_adapters_cannot_be_mixed() -> None:
    with pytest.raises(RequestError, match="different adapters"):
        plan_of(values={"helpful": 1.0, "bold": 1.0})


def test_an_unknown_culture_is_named_with_the_nearest() -> None:
    catalogue = planned_catalogue(["confucian", "african"])
    with pytest.raises(UnknownNameError, match="Did you mean 'confucian'") as caught:
        build_plan(SteeringSpec(cultures={"confusian": 1.0}), catalogue, OPEN)
    assert (caught.value.param, caught.value.code) == ("steering.cultures.confusian", "unknown_culture")


def test_a_preference_vector_too_large_to_be_added_up_keeps_its_shares() -> None:
    plan = plan_of(values={"helpful": 1.5e308, "harmless": 0.5e308})
    assert dict(plan.values) == pytest.approx({"helpful": 0.75, "harmless": 0.25})
    assert plan.digest == plan_of(values={"helpful": 3, "harmless": 1}).digest


@given(st.floats(1e-300, 1e300), st.floats(1e-300, 1e300))
def test_shares_are_the_weights_over_their_sum_to_the_last_bit(helpful: float, harmless: float) -> None:
    plan = plan_of(values={"helpful": helpful, "harmless": harmless})
    given_shares = {"helpful": helpful / (helpful + harmless), "harmless": harmless / (helpful + harmless)}
    assert dict(plan.values) == OPEN.floor_values(given_shares)


def test_an_unknown_axis_is_named() -> None:
    with pytest.raises(UnknownNameError) as caught:
        plan_of(values={"helpfull": 1.0})
    assert (caught.value.param, caught.value.code) == ("steering.values.helpfull", "unknown_value")


def test_a_denied_adapter_is_403() -> None:
    with pytest.raises(DeniedError) as caught:
        plan_of(Policy(denied_adapters=frozenset({"b"})), cultures={"a": 0.5, "b": 0.5})
    assert (caught.value.http_status, caught.value.param) == (403, "steering.cultures.b")


def test_more_adapters_than_the_policy_allows_are_refused() -> None:
    with pytest.raises(PolicyError, match="at most 2"):
        plan_of(Policy(max_adapters=2), cultures={"a": 0.1, "b": 0.1, "c": 0.1})


def test_the_catalogue_describes_what_can_be_asked_for() -> None:
    described = describe_catalogue(CATALOGUE, OPEN, {"calm": {"cultures": {"a": 0.5}}})
    assert [c["id"] for c in described["cultures"]] == ["a", "b", "c"]
    denying = describe_catalogue(CATALOGUE, Policy(denied_adapters=frozenset({"b", "other"})), {})
    assert [c["id"] for c in denying["cultures"]] == ["a", "c"]
    assert {v["id"] for v in denying["values"]} == {"helpful", "harmless"}
    assert {v["id"]: v["adapter"] for v in described["values"]} == {
        "helpful": "compass@1.0.0",
        "harmless": "compass@1.0.0",
        "bold": "other@1.0.0",
    }
    assert described["presets"] == [{"id": "calm", "steering": {"cultures": {"a": 0.5}}}]
