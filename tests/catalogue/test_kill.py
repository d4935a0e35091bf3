"""kill -9 of a server at any moment of a push, an activation, a rollback or a removal: the next start is
whole."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import delete

from steer_server.catalogue import tables, views
from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.database import Database
from steer_server.catalogue.follow import read_replicas
from steer_server.catalogue.manifest import read_manifest
from steer_server.catalogue.package import pack, read_package
from steer_server.catalogue.service import DATABASE_FILE, STORE_FOLDER, data_folder
from steer_server.catalogue.states import State
from steer_server.catalogue.store import LOCK, LocalStore
from steer_server.settings import Settings
from tests.support.adapters import TINY, random_adapter, tiny_base_model
from tests.support.catalogue_acts import assert_consistent
from tests.support.kill_server import KEY, VERSIONS, act_until_killed, serve

NUM_KILLS = 50
LONGEST_LIFE = 3.0
"""Of a server, in times of its first push: a slow machine is as far in its acts when killed as a fast one."""
START_SECONDS = 60
NAMES = ("alpha", "beta")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    base = tiny_base_model(tmp_path / TINY)
    return Settings(
        model=base.path,
        served_model_name="fake",
        bank_rank=8,
        data=tmp_path / "data",
        admin_key=SecretStr(KEY),
    )


@pytest.fixture
def archives(settings: Settings, tmp_path: Path) -> dict[tuple[str, str], bytes]:
    base, made = BaseModel.of(settings), {}
    for name in NAMES:
        for version in VERSIONS:
            folder = tmp_path / version / name
            random_adapter(tmp_path / version, name, base, version=version, seed=len(made))
            made[name, version] = b"".join(pack(folder))
    return made


@asynccontextmanager
async def served(
    context: ForkServerContext, settings: Settings
) -> AsyncIterator[tuple[httpx.AsyncClient, BaseProcess]]:
    """A client of a server and the server's process, which is killed at the end, if it was not before."""
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=serve, args=(settings, there))
    process.start()
    there.close()
    try:
        assert await asyncio.to_thread(here.poll, START_SECONDS), "the server does not start"
        async with asking(here.recv()) as http:
            yield http, process
    finally:
        here.close()
        process.kill()
        await asyncio.to_thread(process.join)
        process.close()


def asking(url: str) -> httpx.AsyncClient:
    # Without certificates, which take longer to load than all that is asked here.
    headers = {"Authorization": f"Bearer {KEY}"}
    return httpx.AsyncClient(base_url=url, timeout=30, headers=headers, verify=False)


async def time_first_push(http: httpx.AsyncClient, archive: bytes) -> float:
    """Seconds a new server takes to put its first version in service."""
    started = time.monotonic()
    headers = {"Content-Type": "application/gzip"}
    pushed = await http.post("/v1/adapters?activate=true", content=archive, headers=headers)
    pushed.raise_for_status()
    return time.monotonic() - started


async def kill_at(process: BaseProcess, seconds: float) -> None:
    await asyncio.sleep(seconds)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)


async def forget_dead_replicas(database: Database) -> None:
    """As if they had been silent for long; removals would wait for them, and no server lives so long here."""
    newest = max(await read_replicas(database), key=lambda replica: replica.last_seen)
    async with database.writing() as connection:
        await connection.execute(delete(tables.replicas).where(tables.replicas.c.id != newest.id))


async def assert_everything_active_is_served(http: httpx.AsyncClient, database: Database) -> int:
    """Every alias leads to a version that answers a request as itself. Returns: how many do."""
    record = await views.read(database)
    active = {name: record.versions[digest] for name, digest in record.aliases.items() if digest}
    offered = (await http.get("/v1/steering")).raise_for_status().json()["cultures"]
    listed = (await http.get("/v1/adapters")).raise_for_status().json()["data"]
    assert {one["id"]: one["adapter"] for one in offered} == {n: v.title for n, v in active.items()}
    assert not [one for one in listed if "problem" in one]
    for name, version in active.items():
        body = {"messages": [{"role": "user", "content": "?"}], "steering": {"cultures": {name: 1.0}}}
        answer = (await http.post("/v1/chat/completions", json=body)).raise_for_status().json()
        assert [one["adapter"] for one in answer["steering"]["applied"]] == [version.title]
    assert all(version.state is State.ACTIVE for version in active.values())
    return len(active)


async def assert_store_is_whole(data: Path, database: Database) -> int:
    """Whole versions only, none missing, and no unfinished work of dead processes. Returns: how many were
    stored and belonged to no row, as a kill between files and row leaves them."""
    root = data / STORE_FOLDER
    folders = {path.name: path for path in (root / "versions").iterdir()}
    for digest, folder in folders.items():
        read_package(folder)
        manifest = read_manifest(folder)
        assert manifest.digest == digest
        for entry in manifest.files:
            assert (folder / entry.path).stat().st_size == entry.size_bytes
    known = set((await views.read(database)).versions)
    assert known <= folders.keys()
    # Of the start: the living server's own area is empty, and those of the killed are gone.
    areas = list((root / "staging").iterdir())
    assert len(areas) == 1 and [path.name for path in areas[0].iterdir()] == [LOCK]
    return len(folders.keys() - known)


async def test_killed_at_any_moment_of_an_act_the_next_start_serves_what_the_database_says(
    context: ForkServerContext,
    settings: Settings,
    archives: dict[tuple[str, str], bytes],
) -> None:
    rng = random.Random(11)
    data = data_folder(settings, BaseModel.of(settings))
    num_acts = num_active = num_orphans = 0
    started = time.monotonic()
    async with served(context, settings) as (http, _):
        longest_life = LONGEST_LIFE * await time_first_push(http, archives[NAMES[0], VERSIONS[0]])
    for _ in range(NUM_KILLS):
        async with served(context, settings) as (http, process):
            database = await Database.open(f"sqlite:///{data / DATABASE_FILE}")
            try:
                await assert_consistent(database)
                num_active += await assert_everything_active_is_served(http, database)
                num_orphans += await assert_store_is_whole(data, database)
                await forget_dead_replicas(database)
            finally:
                await database.close()
            life = rng.uniform(0, longest_life)
            answered, _ = await asyncio.gather(act_until_killed(http, archives, rng), kill_at(process, life))
            num_acts += answered
            assert process.exitcode in (None, -signal.SIGKILL)
    async with served(context, settings) as (http, _):
        database = await Database.open(f"sqlite:///{data / DATABASE_FILE}")
        await assert_consistent(database)
        await assert_everything_active_is_served(http, database)
        await database.close()
    store = LocalStore(data / STORE_FOLDER)
    database = await Database.open(f"sqlite:///{data / DATABASE_FILE}")
    known = frozenset((await views.read(database)).versions)
    await store.sweep(known, min_age_seconds=0)
    assert await store.digests() == known
    await store.close()
    await database.close()
    print(
        f"{num_acts} acts, {num_active} served after {NUM_KILLS} kills, {num_orphans} files without a row; "
        f"lives of up to {longest_life:.2f} s; {time.monotonic() - started:.0f} s in all"
    )
    assert num_acts > NUM_KILLS and num_active > NUM_KILLS // 2, "hardly anything was done"
