"""A plan has one number for as long as anything may have seen it."""

from __future__ import annotations

from steer_server.steering.plan import SteeringPlan, build_plan
from steer_server.steering.policy import Policy
from steer_server.steering.spec import SteeringSpec
from tests.support.adapters import planned_catalogue
from tests.support.vllm_warnings import IMPORTS_VLLM

pytestmark = IMPORTS_VLLM

CATALOGUE = planned_catalogue(["a"])


def plan(weight: float) -> SteeringPlan:
    return build_plan(SteeringSpec(cultures={"a": weight}), CATALOGUE, Policy())


def test_a_plan_keeps_its_id_and_its_journey_ends_where_it_began() -> None:
    from steer_server.engine.plan_ids import FIRST_PLAN_ID, PlanIds

    ids = PlanIds(max_plans=8)
    first = ids.take(plan(0.5))
    assert first.lora_int_id >= FIRST_PLAN_ID and first.lora_name == plan(0.5).digest
    assert SteeringPlan.from_json(first.lora_path) == plan(0.5)
    ids.give_back(plan(0.5))
    assert ids.take(plan(0.5)).lora_int_id == first.lora_int_id


def test_ids_are_never_used_twice_and_the_memory_of_plans_is_bounded() -> None:
    from steer_server.engine.plan_ids import PlanIds

    ids = PlanIds(max_plans=3)
    seen = []
    for i in list(range(1, 11)) * 2:
        seen.append(ids.take(plan(i / 10)).lora_int_id)
        ids.give_back(plan(i / 10))
    assert len(set(seen)) == 20 and len(ids) == 3


def test_a_plan_in_use_is_not_forgotten() -> None:
    """vLLM takes two requests of one name for the same, whatever their ids."""
    from steer_server.engine.plan_ids import PlanIds

    ids = PlanIds(max_plans=2)
    used = ids.take(plan(1.0))
    for i in range(1, 9):
        ids.take(plan(i / 10))
        ids.give_back(plan(i / 10))
    assert ids.take(plan(1.0)).lora_int_id == used.lora_int_id
