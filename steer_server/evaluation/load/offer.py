"""What a server offers to steer by, and a random vector of it for every request.

Vectors are drawn so that no two requests of a run are one plan: nothing is gained by batching equal ones or
by what the prefix cache holds of an earlier one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from steer_server.errors import EvaluationError

CANDIDATES = 4
"""Most answers that a best_of_n request draws."""
LOOPS = 2
"""Of a diffpo request."""
MAX_DRAWS = 100
"""For one vector that was not drawn yet."""
WEIGHT_STEP = 3
"""Decimals of a weight: the server tells no finer ones apart."""


@dataclass(frozen=True)
class Offer:
    """Of one moment; what changes later is not known here."""

    model: str
    methods: tuple[str, ...]
    """That work now: a method whose adapter or head nobody has is left out."""
    cultures: tuple[str, ...]
    axes: tuple[tuple[str, ...], ...]
    """Value axes by adapter: a preference vector has the axes of one."""
    heads: tuple[str, ...]
    prompters: tuple[str, ...]
    max_weight: float
    max_adapters: int
    """In one blend: the policy's, or the bank's slots."""
    max_candidates: int


async def read_offer(http: httpx.AsyncClient, model: str, only: Sequence[str] = ()) -> Offer:
    """What the server at `http` offers.

    Args:
        only: cultures to use; empty for all.

    Raises: EvaluationError when it does not say so, or does not have a culture that is to be used.
    """
    try:
        found = (await http.get("/v1/steering")).raise_for_status().json()
        bank = (await http.get("/ready")).raise_for_status().json().get("bank", {})
        known = [one["id"] for one in found["cultures"]]
        policy = found["policy"]
        axes: dict[str, list[str]] = {}
        for one in found["values"]:
            axes.setdefault(one["adapter"], []).append(one["id"])
        heads, prompters = ([one["id"] for one in found[key]] for key in ("reward_heads", "prompters"))
        offered = found["methods"]
        limits = min(policy["max_adapters"], bank.get("slots", policy["max_adapters"]))
        max_weight, max_candidates = float(policy["max_weight"]), int(policy["max_candidates"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"{http.base_url} does not say what it offers: {error!r}") from error
    if missing := sorted(set(only) - set(known)):
        raise EvaluationError(f"no such culture: {', '.join(missing)}; there are: {', '.join(known)}")
    cultures = [culture for culture in known if not only or culture in only]
    needs = {
        "adapters": cultures or axes,
        "best_of_n": heads,
        "align_pro": prompters,
        "diffpo": cultures or axes,
    }
    return Offer(
        model,
        tuple(sorted(method for method in offered if needs.get(method, True))),
        tuple(cultures),
        tuple(map(tuple, axes.values())),
        tuple(heads),
        tuple(prompters),
        max_weight,
        limits,
        max_candidates,
    )


@dataclass
class Vectors:
    """`steering` objects, each with a vector that was not drawn before."""

    offer: Offer
    rng: random.Random
    blend: int = 3
    """Most cultures of one vector."""
    _drawn: set[str] = field(default_factory=set)

    def steering(self, method: str) -> dict[str, Any]:
        """Args: method: one of the offer's."""
        match method:
            case "none":
                return {"method": "none"}
            case "align_pro":
                prompter = {"prompter": self.rng.choice(self.offer.prompters)}
                return {"method": method, "strength": self._weight(0.5, 1.0), "options": prompter}
            case "best_of_n":
                candidates = {"n": min(CANDIDATES, self.offer.max_candidates)}
                heads = [self.rng.choice(self.offer.heads)]
                return {"method": method, "reward_heads": heads, "options": candidates, **self._new_vector()}
            case "diffpo":
                return {"method": method, "options": {"loops": LOOPS}, **self._new_vector()}
        return {"method": method, **self._new_vector()}

    def _new_vector(self) -> dict[str, Any]:
        for _ in range(MAX_DRAWS):
            vector = self._vector()
            if (key := repr(vector)) not in self._drawn:
                self._drawn.add(key)
                break
        return vector

    def _vector(self) -> dict[str, Any]:
        """Half of them weigh value axes, where there are any; of these half have no cultures."""
        if not self.offer.cultures and not self.offer.axes:
            return {}
        has_values = bool(self.offer.axes) and (not self.offer.cultures or self.rng.random() < 0.5)
        has_cultures = bool(self.offer.cultures) and (not has_values or self.rng.random() < 0.5)
        room = self.offer.max_adapters - has_values
        found: dict[str, Any] = {}
        if has_cultures and room > 0:
            num = self.rng.randint(1, min(self.blend, room, len(self.offer.cultures)))
            total = self._weight(0.5, 1.0) * self.offer.max_weight
            found["cultures"] = self._shares(sorted(self.rng.sample(self.offer.cultures, num)), total)
        if has_values:
            found["values"] = self._shares(self.rng.choice(self.offer.axes), 1.0)
        return found

    def _shares(self, names: Sequence[str], total: float) -> Mapping[str, float]:
        """Weights above 0 that add up to `total`, uniform on the simplex."""
        drawn = [self.rng.expovariate(1.0) for _ in names]
        step = 10**-WEIGHT_STEP
        return {
            name: max(step, round(total * one / sum(drawn), WEIGHT_STEP))
            for name, one in zip(names, drawn, strict=True)
        }

    def _weight(self, low: float, high: float) -> float:
        return round(self.rng.uniform(low, high), WEIGHT_STEP)
