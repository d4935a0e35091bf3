"""Plans as vLLM carries them: in the place of a LoRA adapter, each with a number."""

from __future__ import annotations

import itertools
from collections import OrderedDict

from vllm.lora.request import LoRARequest

from steer_server.steering.plan import SteeringPlan

FIRST_PLAN_ID = 1 << 20
"""Above every id that vLLM gives to adapters of its own or to warm-up requests."""


class PlanIds:
    """A fresh integer for each plan, the same one for as long as the plan is remembered, never used twice.

    vLLM takes two `LoRARequest`s of one name for the same, so a plan in use must keep its id.
    """

    def __init__(self, max_plans: int) -> None:
        self._max_plans = max_plans
        self._next = itertools.count(FIRST_PLAN_ID)
        self._known: OrderedDict[str, LoRARequest] = OrderedDict()
        self._num_users: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._known)

    def take(self, plan: SteeringPlan) -> LoRARequest:
        """The plan as vLLM carries it; `give_back` when the request has ended."""
        request = self._known.get(plan.digest)
        if request is None:
            request = LoRARequest(plan.digest, next(self._next), plan.to_json())
            self._known[plan.digest] = request
        self._known.move_to_end(plan.digest)
        self._num_users[plan.digest] = self._num_users.get(plan.digest, 0) + 1
        while len(self._known) > self._max_plans:
            idle = next((digest for digest in self._known if digest not in self._num_users), None)
            if idle is None:
                break
            del self._known[idle]
        return request

    def give_back(self, plan: SteeringPlan) -> None:
        self._num_users[plan.digest] -= 1
        if not self._num_users[plan.digest]:
            del self._num_users[plan.digest]
