"""SteeringPlan: what will be done for one request. Frozen, hashable, with a digest that identifies it.

Gates are quantised to steps of 0.001: two requests closer than that are the same plan and share cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from steer_server.catalogue.manifest import Manifest
from steer_server.catalogue.snapshot import Catalogue, LoadedAdapter
from steer_server.errors import PolicyError, QuarantinedError, RequestError, UnknownNameError
from steer_server.steering.anchors import anchor_weights
from steer_server.steering.fields import shares_of
from steer_server.steering.policy import Policy
from steer_server.steering.spec import SteeringSpec

GATE_DECIMALS = 3
"""Resolution of every gate and weight in a plan: steps of 0.001."""


def quantise(weight: float) -> float:
    """The nearest multiple of 0.001; -0.0 becomes 0.0."""
    return round(weight, GATE_DECIMALS) + 0.0


@dataclass(frozen=True)
class AdapterGate:
    """One adapter's part in a plan."""

    name: str
    version: str
    digest: str
    """Content digest of the adapter."""
    weight: float
    """The quantised weight x strength, where a preference vector as a whole has weight 1. The gate on every
    rank that is not in `axes`."""
    axes: tuple[tuple[int, float], ...] = ()
    """(rank index, gate) of each rank with a gate of its own: of a value axis, or of an anchor."""

    def gates(self, rank: int) -> list[float]:
        """The gate of each of the adapter's ranks, length `rank`."""
        row = [self.weight] * rank
        for index, gate in self.axes:
            row[index] = gate
        return row


@dataclass(frozen=True)
class SteeringPlan:
    """A plan without gates is the base model."""

    method: str
    adapters: tuple[AdapterGate, ...] = ()
    """Sorted by content digest, so that the order of the request does not matter."""
    values: tuple[tuple[str, float], ...] = ()
    """The preference vector after normalising and policy."""

    @cached_property
    def digest(self) -> str:
        """Identity of everything that changes hidden states: adapter contents and gates. 32 hex digits."""
        identity = [[a.digest, a.weight, a.axes] for a in self.adapters]
        canonical = json.dumps({"v": 1, "adapters": identity}, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]

    @property
    def is_base(self) -> bool:
        return not self.adapters

    def scaled(self, factor: float) -> SteeringPlan:
        """The same with every gate multiplied, as a request of `factor` times the strength would have it."""
        adapters = tuple(
            replace(
                gate,
                weight=quantise(gate.weight * factor),
                axes=tuple((rank, quantise(value * factor)) for rank, value in gate.axes),
            )
            for gate in self.adapters
        )
        return replace(self, adapters=adapters)

    def describe(self) -> dict[str, Any]:
        """The response's `steering` object."""
        return {
            "plan": self.digest,
            "method": self.method,
            "applied": [{"adapter": f"{a.name}@{a.version}", "weight": a.weight} for a in self.adapters],
            "values": {axis: quantise(share) for axis, share in self.values},
        }

    def to_json(self) -> str:
        """What travels to the engine's workers; `from_json` gives back an equal plan."""
        return json.dumps(
            {
                "method": self.method,
                "adapters": [[a.name, a.version, a.digest, a.weight, a.axes] for a in self.adapters],
                "values": self.values,
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> SteeringPlan:
        document = json.loads(text)
        adapters = tuple(
            AdapterGate(name, version, digest, weight, tuple((i, g) for i, g in axes))
            for name, version, digest, weight, axes in document["adapters"]
        )
        return cls(document["method"], adapters, tuple((a, s) for a, s in document["values"]))


BASE_PLAN = SteeringPlan(method="none")


def build_plan(
    spec: SteeringSpec, catalogue: Catalogue, policy: Policy, *, param: str = "steering"
) -> SteeringPlan:
    """What will be done for `spec`, with what is loaded, within the policy.

    Semantics: culture c gets the gate quantise(w_c * strength); value axis i gets quantise(strength * λ_i)
    with λ = floor_values(w / Σ w), and the shared ranks of its adapter quantise(strength). Where the axes
    have anchors, the ranks of anchor i get quantise(strength * anchor_weights(anchors, λ)_i).
    The prompter of align_pro gets quantise(strength).
    Gates that are 0 are dropped, so a plan of weight 0 is the base model itself.

    Raises:
        RequestError: several prompters to choose from, or none.
        UnknownNameError: a culture, axis or prompter that is not loaded, with the nearest that is.
        QuarantinedError: its adapter was taken out of service.
        PolicyError, DeniedError: outside the policy.
    """
    if spec.method == "none":
        return BASE_PLAN
    policy.check_spec(spec, param=param)
    gates: list[AdapterGate] = []
    for culture, weight in spec.cultures.items():
        field = f"{param}.cultures.{culture}"
        adapter = catalogue.cultures.get(culture)
        if adapter is None:
            raise not_usable(
                "culture", culture, catalogue, catalogue.cultures, param=field, code="unknown_culture"
            )
        policy.check_adapter(adapter.name, param=field)
        gate = quantise(weight * spec.strength)
        gates.append(AdapterGate(adapter.name, adapter.version, adapter.digest, gate))
    shares: dict[str, float] = {}
    if spec.values:
        vector, shares = _preference_gate(spec, catalogue, policy, param)
        gates.append(vector)
    if spec.method == "align_pro":
        gates.append(_prompter_gate(spec, catalogue, policy, f"{param}.options.prompter"))
    used = [gate for gate in gates if gate.weight or any(g for _, g in gate.axes)]
    if len(used) > policy.max_adapters:
        raise PolicyError(
            f"The blend has {len(used)} adapters; at most {policy.max_adapters}.", param=f"{param}.cultures"
        )
    used.sort(key=lambda gate: gate.digest)
    return SteeringPlan(spec.method, tuple(used), tuple(sorted(shares.items())))


def _preference_gate(
    spec: SteeringSpec, catalogue: Catalogue, policy: Policy, param: str
) -> tuple[AdapterGate, dict[str, float]]:
    owners: dict[str, LoadedAdapter] = {}
    for axis in spec.values:
        field = f"{param}.values.{axis}"
        adapter = catalogue.axes.get(axis)
        if adapter is None:
            raise not_usable("value axis", axis, catalogue, catalogue.axes, param=field, code="unknown_value")
        policy.check_adapter(adapter.name, param=field)
        owners[adapter.name] = adapter
    if len(owners) > 1:
        raise RequestError(
            f"The axes belong to different adapters ({', '.join(sorted(owners))}); "
            "a preference vector uses the axes of one.",
            param=f"{param}.values",
        )
    (adapter,) = owners.values()
    given = shares_of(spec.values)
    shares = policy.floor_values({a.id: given.get(a.id, 0.0) for a in adapter.manifest.axes})
    axes = _own_gates(adapter.manifest, shares, spec.strength)
    gate = AdapterGate(adapter.name, adapter.version, adapter.digest, quantise(spec.strength), axes)
    if not any(gate.gates(adapter.rank)):
        gate = replace(gate, weight=0.0)
    return gate, shares


def _prompter_gate(spec: SteeringSpec, catalogue: Catalogue, policy: Policy, param: str) -> AdapterGate:
    offered = offered_prompters(catalogue, policy)
    name = spec.prompter
    if name is None:
        if len(offered) != 1:
            known = f"Name one of: {', '.join(offered)}." if offered else "No prompter is loaded."
            raise RequestError(f"align_pro needs a prompter. {known}", param=param, code="prompter_required")
        (name,) = offered
    adapter = catalogue.prompters.get(name)
    if adapter is None:
        raise not_usable("prompter", name, catalogue, offered, param=param, code="unknown_prompter")
    policy.check_adapter(adapter.name, param=param)
    return AdapterGate(adapter.name, adapter.version, adapter.digest, quantise(spec.strength))


def _own_gates(
    manifest: Manifest, shares: Mapping[str, float], strength: float
) -> tuple[tuple[int, float], ...]:
    """(rank, gate) of every rank that carries an axis or belongs to an anchor."""
    weights: Sequence[float] = list(shares.values())
    if manifest.anchors:
        vectors = [anchor.weights(list(shares)) for anchor in manifest.anchors]
        weights = anchor_weights(vectors, weights)
    parts = zip(manifest.own_ranks.values(), weights, strict=True)
    return tuple((rank, quantise(strength * weight)) for ranks, weight in parts for rank in ranks)


def not_usable(
    kind: str, name: str, catalogue: Catalogue, known: Iterable[str], *, param: str, code: str
) -> UnknownNameError | QuarantinedError:
    """Why a name is not in `known`, the names of its kind that can be used now."""
    if title := catalogue.quarantined.get(name):
        return QuarantinedError(kind, name, title, param=param)
    return UnknownNameError(kind, name, known, param=param, code=code)


def offered_cultures(catalogue: Catalogue, policy: Policy) -> list[str]:
    """Culture ids that a request may use: what is loaded, less what the policy denies."""
    return sorted(
        c for c, adapter in catalogue.cultures.items() if adapter.name not in policy.denied_adapters
    )


def offered_prompters(catalogue: Catalogue, policy: Policy) -> list[str]:
    """The same of prompters."""
    return sorted(
        p for p, adapter in catalogue.prompters.items() if adapter.name not in policy.denied_adapters
    )


def describe_catalogue(catalogue: Catalogue, policy: Policy, presets: Mapping[str, Any]) -> dict[str, Any]:
    """What can be asked for now: the body of `GET /v1/steering`, less the methods."""
    return {
        "cultures": [
            {
                "id": culture,
                "description": adapter.manifest.description,
                "countries": list(adapter.manifest.culture.countries) if adapter.manifest.culture else [],
                "adapter": adapter.title,
            }
            for culture in offered_cultures(catalogue, policy)
            for adapter in (catalogue.cultures[culture],)
        ],
        "values": [
            {"id": a.id, "description": a.description, "adapter": adapter.title, "range": [0.0, 1.0]}
            for adapter in catalogue.adapters
            if adapter.name not in policy.denied_adapters
            for a in adapter.manifest.axes
        ],
        "reward_heads": [
            {
                "id": head,
                "description": loaded.manifest.description,
                "meaning": loaded.config.label_meaning,
                "culture": loaded.manifest.culture.id if loaded.manifest.culture else None,
                "adapter": loaded.title,
            }
            for head, loaded in sorted(catalogue.reward_heads.items())
            if loaded.name not in policy.denied_adapters
        ],
        "prompters": [
            {
                "id": info.id,
                "description": adapter.manifest.description,
                "aim": info.aim,
                "culture": info.culture,
                "adapter": adapter.title,
            }
            for adapter in catalogue.adapters
            if adapter.name not in policy.denied_adapters
            for info in (adapter.manifest.prompter,)
            if info is not None
        ],
        "presets": [{"id": name, "steering": preset} for name, preset in sorted(presets.items())],
        "policy": policy.public(),
    }
