"""Which reward heads score an answer, and how their scores choose among several. Pure.

    aggregate(answer) = Σ_h λ_h · calibrated_h(answer),   λ_h = w_h / Σ w,   all equal without weights

The answer with the largest aggregate is the best; of equal ones, the one that was drawn first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from steer_server.catalogue.snapshot import Catalogue, LoadedRewardHead
from steer_server.errors import PolicyError
from steer_server.steering.fields import shares_of
from steer_server.steering.plan import not_usable
from steer_server.steering.policy import Policy
from steer_server.steering.spec import SteeringSpec


def find_heads(names: Mapping[str, str], catalogue: Catalogue, policy: Policy) -> dict[str, LoadedRewardHead]:
    """The heads of these ids, by the same places.

    Args:
        names: head id by the place in the request that names it, for errors.

    Raises: UnknownNameError, QuarantinedError; DeniedError for a head that the policy denies.
    """
    found = {}
    for place, name in names.items():
        head = catalogue.reward_heads.get(name)
        if head is None:
            raise not_usable(
                "reward head",
                name,
                catalogue,
                catalogue.reward_heads,
                param=place,
                code="unknown_reward_head",
            )
        policy.check_adapter(head.name, param=place)
        found[place] = head
    return found


def heads_of_spec(
    spec: SteeringSpec, catalogue: Catalogue, policy: Policy, *, param: str = "steering"
) -> dict[str, LoadedRewardHead]:
    """The heads that score this request's answer, by their places in it.

    Raises: as `find_heads`; PolicyError for too large an n.
    """
    if spec.method == "best_of_n" and spec.candidates > policy.max_candidates:
        raise PolicyError(
            f"{spec.candidates} candidates; at most {policy.max_candidates}.", param=f"{param}.options.n"
        )
    places = {f"{param}.reward_heads.{i}": name for i, name in enumerate(spec.reward_heads)}
    return find_heads(places, catalogue, policy)


def head_shares(spec: SteeringSpec) -> dict[str, float]:
    """λ by head id, on the simplex; a head that the weights leave out has 0 and is only reported."""
    shares = shares_of(spec.head_weights or dict.fromkeys(spec.reward_heads, 1.0))
    return {head: shares.get(head, 0.0) for head in spec.reward_heads}


def aggregate(calibrated: Mapping[str, float], shares: Mapping[str, float]) -> float:
    """The module's formula, of one answer."""
    return sum(share * calibrated[head] for head, share in shares.items())


def best_first(aggregates: Sequence[float | None]) -> list[int]:
    """Indices of answers, the best first. None: an answer that could not be scored; these come last."""
    return sorted(
        range(len(aggregates)), key=lambda i: -value if (value := aggregates[i]) is not None else float("inf")
    )
