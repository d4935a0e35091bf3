"""Operators who never stop acting on a server that is killed, and what must hold whenever it is back."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from steer_server.catalogue import views
from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.database import Database
from steer_server.catalogue.package import pack
from steer_server.catalogue.states import State
from tests.support.adapters import random_adapter
from tests.support.catalogue_acts import assert_consistent
from tests.support.catalogue_files import (
    assert_store_is_whole,
    assert_swept,
    forget_dead_replicas,
    sqlite_url,
)

KEY = "operator"
STEADY = ("steady", "1.0.0")
"""Pushed once and not touched by any act: it is served whatever is killed when."""
NAMES = ("alpha", "beta")
VERSIONS = ("1.0.0", "2.0.0")
NUM_OPERATORS = 3
LONGEST_LIFE = 3.0
"""Of a server, in times of its first push: a slow machine is as far in its acts when killed as a fast one."""
GONE = (httpx.NetworkError, httpx.RemoteProtocolError)
"""What a client meets where a server was. Not a timeout: a server that lives on and hangs is a failure."""
PACKAGE = {"Content-Type": "application/gzip"}

Archives = Mapping[tuple[str, str], bytes]
"""By name and version."""


@dataclass
class Victim:
    """A server that answers and is about to be killed."""

    http: httpx.AsyncClient
    kind: str
    """What of it is killed."""
    kill: Callable[[], None]
    leftovers: list[str] = field(default_factory=list)
    """Its processes that did not end with it; known afterwards."""


Start = Callable[[int], AbstractAsyncContextManager[Victim]]
"""Start number n, on the data that the starts before it left."""


@dataclass
class Tally:
    """What was seen in a number of kills."""

    num_acts: int = 0
    """Answered ones."""
    num_served: int = 0
    """Versions that were active at a start, all starts added up, and so many answers as themselves."""
    num_files_without_row: int = 0
    """Versions of the store that a kill between files and row left."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Kills."""
    start_seconds: list[float] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    """What each version, by its title, answered first."""

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items())
        middle, longest = statistics.median(self.start_seconds), max(self.start_seconds)
        return (
            f"{self.kinds.total()} kills ({kinds}), {self.num_acts} acts answered, "
            f"{len(self.start_seconds)} starts of {middle:.1f} s in the median and {longest:.1f} s at most, "
            f"{self.num_served} times an active version served, {self.num_files_without_row} files without a "
            f"row, leftovers: {', '.join(self.leftovers) or 'none'}"
        )

    async def look(self, http: httpx.AsyncClient, data: Path) -> None:
        """All that must hold after a start."""
        database = await Database.open(sqlite_url(data))
        try:
            await assert_consistent(database)
            await self._ask_everything_active(http, database)
            self.num_files_without_row += await assert_store_is_whole(data, database)
            await forget_dead_replicas(database)
        finally:
            await database.close()

    async def _ask_everything_active(self, http: httpx.AsyncClient, database: Database) -> None:
        """Every alias leads to a version that answers as itself, with the text that it always had."""
        (await http.get("/ready")).raise_for_status()
        record = await views.read(database)
        active = {name: record.versions[digest] for name, digest in record.aliases.items() if digest}
        assert all(version.state is State.ACTIVE for version in active.values())
        offered = (await http.get("/v1/steering")).raise_for_status().json()["cultures"]
        listed = (await http.get("/v1/adapters")).raise_for_status().json()["data"]
        assert {one["id"]: one["adapter"] for one in offered} == {n: v.title for n, v in active.items()}
        assert not [one for one in listed if "problem" in one]
        for name, version in active.items():
            body = {
                "messages": [{"role": "user", "content": "?"}],
                "max_tokens": 16,
                "temperature": 0,
                "ignore_eos": True,
                "steering": {"cultures": {name: 1.0}},
            }
            answer = (await http.post("/v1/chat/completions", json=body)).raise_for_status().json()
            assert [one["adapter"] for one in answer["steering"]["applied"]] == [version.title]
            text = answer["choices"][0]["message"]["content"]
            assert self.texts.setdefault(version.title, text) == text
        self.num_served += len(active)
        assert not self.kinds or STEADY[0] in active


async def kill_and_restart(start: Start, data: Path, archives: Archives, num_kills: int) -> Tally:
    """Kills so many servers, each at a random moment of its operators' acts, and looks at the next one.

    Args:
        data: the folder of database and store, which all starts share.
        archives: versions to push: `STEADY`, and those to act on.
    """
    rng, moments = random.Random(11), random.Random(12)
    tally, longest_life, began = Tally(), 0.0, time.monotonic()
    for number in range(num_kills + 1):
        starting = time.monotonic()
        async with start(number) as victim:
            tally.start_seconds.append(time.monotonic() - starting)
            await tally.look(victim.http, data)
            if number == num_kills:
                break
            if number == 0:
                longest_life = LONGEST_LIFE * await _push_steady(victim.http, archives)
            life = moments.uniform(0, longest_life)
            num_acts = await _act_until_killed(victim, life, archives, rng)
        tally.kinds[victim.kind] += 1
        tally.num_acts += num_acts
        tally.leftovers += victim.leftovers
        leftovers = ", ".join(victim.leftovers) or "none"
        elapsed = time.monotonic() - began
        left = elapsed / (number + 1) * (num_kills - number - 1)
        print(
            f"kill {number + 1}/{num_kills}: {victim.kind}, started in {tally.start_seconds[-1]:.1f} s, "
            f"killed after {life:.2f} s and {num_acts} acts, leftovers: {leftovers}; "
            f"elapsed {elapsed:.0f} s, ETA {left:.0f} s",
            flush=True,
        )
    await assert_swept(data)
    assert tally.num_acts > num_kills, "hardly anything was done"
    assert len(set(tally.texts.values())) == len(tally.texts), "versions cannot be told apart"
    return tally


def make_archives(folder: Path, base: BaseModel) -> Archives:
    made = {}
    for name, version in [STEADY, *((name, version) for name in NAMES for version in VERSIONS)]:
        random_adapter(folder / version, name, base, version=version, seed=len(made), size=0.5)
        made[name, version] = b"".join(pack(folder / version / name))
    return made


def asking(url: str) -> httpx.AsyncClient:
    # Without certificates, which take longer to load than all that is asked here.
    headers = {"Authorization": f"Bearer {KEY}"}
    return httpx.AsyncClient(base_url=url, timeout=120, headers=headers, verify=False)


async def _push_steady(http: httpx.AsyncClient, archives: Archives) -> float:
    """Seconds a new server takes to put its first version in service."""
    started = time.monotonic()
    pushed = await http.post("/v1/adapters?activate=true", content=archives[STEADY], headers=PACKAGE)
    pushed.raise_for_status()
    return time.monotonic() - started


async def _act_until_killed(victim: Victim, seconds: float, archives: Archives, rng: random.Random) -> int:
    """Random acts, several at a time, until the server is gone. Returns: how many were answered."""
    num_answered, is_killed = 0, False

    async def operate() -> None:
        nonlocal num_answered
        while True:
            try:
                response = await victim.http.send(_random_act(victim.http, archives, rng))
            except GONE:
                assert is_killed, "the server ended by itself"
                return
            if is_killed and response.status_code in (502, 503):
                continue  # from a server that has lost its engine
            assert response.status_code in (200, 201, 400, 404, 409), response.text
            num_answered += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(NUM_OPERATORS):
            group.create_task(operate())
        await asyncio.sleep(seconds)
        is_killed = True
        victim.kill()
    return num_answered


def _random_act(http: httpx.AsyncClient, archives: Archives, rng: random.Random) -> httpx.Request:
    name, version = rng.choice(NAMES), rng.choice(VERSIONS)
    path = f"/v1/adapters/{name}"
    push = f"/v1/adapters?activate={rng.choice(('true', 'false'))}"
    return rng.choices(
        [
            http.build_request("POST", push, content=archives[name, version], headers=PACKAGE),
            http.build_request("POST", f"{path}/versions/{version}/activate"),
            http.build_request("POST", f"{path}/rollback"),
            http.build_request("POST", f"{path}/versions/{version}/quarantine"),
            http.build_request("POST", f"{path}/versions/{version}/release"),
            http.build_request("DELETE", path, params={"version": version}),
            http.build_request("DELETE", path),
        ],
        weights=[5, 3, 2, 1, 1, 2, 1],
    )[0]
