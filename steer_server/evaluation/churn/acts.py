"""The operator of a churn: acts in turn on every name, each checked against what the server shows then."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import httpx

from steer_server.evaluation.churn.packages import VERSIONS, ChurnedPackage
from steer_server.evaluation.churn.timeline import Timeline

ARCHIVE_HEADERS = {"Content-Type": "application/gzip"}
USABLE = frozenset({"probed", "retired", "draining"})


class Kind(StrEnum):
    """What an operator does. `switch` activates a version in place of another."""

    PUSH = "push"
    ACTIVATE = "activate"
    SWITCH = "switch"
    ROLLBACK = "rollback"
    QUARANTINE = "quarantine"
    RELEASE = "release"
    DEACTIVATE = "deactivate"
    REMOVE = "remove"


EXPECTED_STATES: Mapping[Kind, frozenset[str]] = {
    Kind.PUSH: frozenset({"probed"}),
    Kind.ACTIVATE: frozenset({"active"}),
    Kind.SWITCH: frozenset({"active"}),
    Kind.ROLLBACK: frozenset({"active"}),
    Kind.QUARANTINE: frozenset({"quarantined"}),
    Kind.RELEASE: frozenset({"probed"}),
    Kind.DEACTIVATE: frozenset({"retired", "draining"}),
    Kind.REMOVE: frozenset({"absent"}),
}


@dataclass(frozen=True)
class Act:
    kind: Kind
    name: str
    version: str
    """That is acted on."""
    leads_to: str | None
    """The version that is active afterwards."""


@dataclass(frozen=True)
class Shown:
    """A name as the server shows it."""

    name: str
    states: Mapping[str, str]
    """By version; one that is not there is missing."""
    active: str | None
    rollback_to: str | None
    """What rolling back leads to; None also where it is not plain from the last move."""

    @classmethod
    def of(cls, name: str, body: Mapping[str, Any]) -> Shown:
        """From the answer to `GET /v1/adapters/{name}`."""
        states = {one["version"]: one["state"] for one in body["versions"]}
        labels = {one["digest"]: one["version"] for one in body["versions"]}
        target = None
        if body["history"]:
            move = body["history"][-1]
            if move["action"] in ("activate", "deactivate"):
                target = labels.get(move["previous"])
        if target is not None and (states[target] not in USABLE or target == labels.get(body["active"])):
            target = None
        return cls(name, states, labels.get(body["active"]), target)

    def possible_acts(self) -> list[Act]:
        """Every act that the server must not refuse now."""
        acts = []
        if self.rollback_to is not None:
            acts.append(Act(Kind.ROLLBACK, self.name, self.rollback_to, self.rollback_to))
        for version in VERSIONS:
            match self.states.get(version):
                case None:
                    acts.append(Act(Kind.PUSH, self.name, version, self.active))
                case "active":
                    acts.append(Act(Kind.QUARANTINE, self.name, version, None))
                    acts.append(Act(Kind.DEACTIVATE, self.name, version, None))
                case "quarantined":
                    acts.append(Act(Kind.RELEASE, self.name, version, self.active))
                    acts.append(Act(Kind.REMOVE, self.name, version, self.active))
                case state if state in USABLE:
                    kind = Kind.SWITCH if self.active else Kind.ACTIVATE
                    acts.append(Act(kind, self.name, version, version))
                    acts.append(Act(Kind.REMOVE, self.name, version, self.active))
        return acts


class ActFailed(Exception):
    """An act was refused, or did not do what it says. Caught by the churn."""


@dataclass
class Operator:
    """Acts one after the other, and tells the timeline before and after each.

    Args:
        rng: chooses among acts of the kind that was done least.
    """

    http: httpx.AsyncClient
    timeline: Timeline
    packages: Sequence[ChurnedPackage]
    rng: random.Random
    seconds: dict[Kind, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Duration of every act that was done, until the server answered."""

    @property
    def num_acts(self) -> int:
        return sum(map(len, self.seconds.values()))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(package.name for package in self.packages))

    async def act_next(self) -> Act:
        """Does an act of the kind that was done least, and checks what it did. One name at least stays
        active.

        Raises: ActFailed, after the timeline was told what the server shows.
        """
        shown = [await self.show(name) for name in self.names]
        is_last = sum(one.active is not None for one in shown) <= 1
        acts = [
            act
            for one in shown
            for act in one.possible_acts()
            if not (is_last and one.active is not None and act.leads_to is None)
        ]
        least = min(len(self.seconds[act.kind]) for act in acts)
        act = self.rng.choice([act for act in acts if len(self.seconds[act.kind]) == least])
        await self.do(act)
        return act

    async def do(self, act: Act) -> None:
        """Raises: ActFailed, after the timeline was told what the server shows."""
        self.timeline.begins(act.name, act.leads_to)
        started = time.monotonic()
        try:
            response = await self._send(act)
        except httpx.HTTPError as error:
            problem = repr(error)
        else:
            problem = "" if response.is_success else f"{response.status_code}: {response.text[:300]}"
        # A refused act counts too, or the same would be tried for ever.
        self.seconds[act.kind].append(time.monotonic() - started)
        shown = await self.show(act.name)
        self.timeline.begins(act.name, shown.active)
        self.timeline.ended(act.name)
        state = shown.states.get(act.version, "absent")
        if not problem and (shown.active != act.leads_to or state not in EXPECTED_STATES[act.kind]):
            problem = f"now {act.version} is {state} and {shown.active} is active"
        if problem:
            raise ActFailed(f"{act.kind} {act.name}@{act.version}: {problem}")

    async def show(self, name: str) -> Shown:
        """Raises: ActFailed."""
        try:
            response = await self.http.get(f"/v1/adapters/{name}")
            if response.status_code == httpx.codes.NOT_FOUND:
                return Shown(name, {}, None, None)
            return Shown.of(name, response.raise_for_status().json())
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise ActFailed(f"show {name}: {error!r}") from error

    async def bring(self, package: ChurnedPackage) -> None:
        """Makes this the active version of its name, whatever was done before; not counted as acts.

        Raises: ActFailed.
        """
        shown = await self.show(package.name)
        if shown.active == package.version:
            return
        path = f"/v1/adapters/{package.name}/versions/{package.version}"
        self.timeline.begins(package.name, package.version)
        try:
            if shown.states.get(package.version) == "quarantined":
                (await self.http.post(f"{path}/release")).raise_for_status()
            if package.version not in shown.states:
                await self._push(package)
            (await self.http.post(f"{path}/activate")).raise_for_status()
        except httpx.HTTPStatusError as error:
            raise ActFailed(f"bring {package.title}: {error.response.text[:300]}") from error
        except httpx.HTTPError as error:
            raise ActFailed(f"bring {package.title}: {error!r}") from error
        self.timeline.ended(package.name)

    async def remove_everything(self) -> list[str]:
        """Takes away every churned name. Returns: what could not be removed, and why."""
        left = []
        for name in self.names:
            try:
                response = await self.http.delete(f"/v1/adapters/{name}")
            except httpx.HTTPError as error:
                left.append(f"{name}: {error!r}")
                continue
            if not response.is_success and response.status_code != httpx.codes.NOT_FOUND:
                left.append(f"{name}: {response.status_code}: {response.text[:300]}")
        return left

    async def _push(self, package: ChurnedPackage) -> httpx.Response:
        response = await self.http.post("/v1/adapters", content=package.archive, headers=ARCHIVE_HEADERS)
        return response.raise_for_status()

    async def _send(self, act: Act) -> httpx.Response:
        match act.kind:
            case Kind.PUSH:
                package = next(p for p in self.packages if (p.name, p.version) == (act.name, act.version))
                return await self.http.post("/v1/adapters", content=package.archive, headers=ARCHIVE_HEADERS)
            case Kind.REMOVE:
                return await self.http.delete(f"/v1/adapters/{act.name}", params={"version": act.version})
            case Kind.ROLLBACK | Kind.DEACTIVATE:
                return await self.http.post(f"/v1/adapters/{act.name}/{act.kind}")
        verb = "activate" if act.kind is Kind.SWITCH else act.kind
        return await self.http.post(f"/v1/adapters/{act.name}/versions/{act.version}/{verb}")
