"""Operators' acts on one or two replicas with fake engines, real databases and a real store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from steer_server.catalogue import replica as replica_module
from steer_server.catalogue import views
from steer_server.catalogue.admission import Admission
from steer_server.catalogue.database import Database
from steer_server.catalogue.lifecycle import Lifecycle
from steer_server.catalogue.package import stage_folder
from steer_server.catalogue.records import Actor, CatalogueRecord, VersionRecord
from steer_server.catalogue.replica import Replica
from steer_server.catalogue.signatures import SignaturePolicy
from steer_server.catalogue.snapshot import LoadedAdapter
from steer_server.catalogue.states import State
from steer_server.catalogue.store import LocalStore
from steer_server.errors import CatalogueError, ConflictError, NotReadyError
from tests.support.adapters import TINY, random_adapter, tiny_base_model
from tests.support.waiting import until

OPERATOR = Actor("key-1", "operator")


@dataclass
class Server:
    """One replica, and what its engine was asked."""

    lifecycle: Lifecycle
    replica: Replica
    refused_by_probe: set[str]
    """Names that this engine cannot run."""
    held: dict[str, asyncio.Event]
    """Digests that running requests hold until the event is set."""
    evicted: list[str]

    @property
    def served(self) -> list[str]:
        return [adapter.title for adapter in self.replica.catalogue.adapters]


class Workshop:
    """Makes servers on one database and one store, and versions to push."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder, self.url = folder, database_url
        self.base = tiny_base_model(folder / TINY)
        self._open: list[Callable[[], Awaitable[None]]] = []

    async def server(self, replica_id: str = "one") -> Server:
        database = await Database.open(self.url)
        store = LocalStore(self.folder / "store")
        refused: set[str] = set()
        held: dict[str, asyncio.Event] = {}
        evicted: list[str] = []

        async def probe(loaded: object) -> None:
            assert isinstance(loaded, LoadedAdapter)
            if loaded.name in refused:
                raise CatalogueError(loaded.name, "probe_no_effect", "made up")

        async def evict(digest: str) -> None:
            if digest in held:
                await held[digest].wait()
            evicted.append(digest)

        admission = Admission(store, probe, self.base, 8, SignaturePolicy.OFF, {})
        replica = Replica(database, replica_id, admission.load, evict, poll_seconds=0.05)
        self._open += [store.close, database.close, replica.close]
        return Server(Lifecycle(database, admission, replica), replica, refused, held, evicted)

    async def push(
        self, server: Server, name: str, version: str = "1.0.0", *, activate: bool = True, seed: int = 1
    ) -> VersionRecord:
        uploads = self.folder / f"uploads-{version}-{seed}"
        random_adapter(uploads, name, self.base, seed=seed, version=version)
        async with stage_folder(uploads / name, uploads, server.lifecycle.store.staging) as package:
            return await server.lifecycle.push(package, OPERATOR, activate=activate)

    async def close(self) -> None:
        while self._open:
            await self._open.pop()()


@pytest.fixture
async def workshop(tmp_path: Path, sqlite_url: str) -> AsyncIterator[Workshop]:
    made = Workshop(tmp_path, sqlite_url)
    yield made
    await made.close()


async def test_a_pushed_version_is_probed_and_served_only_when_activated(workshop: Workshop) -> None:
    server = await workshop.server()
    assert (await workshop.push(server, "alpha", activate=False)).state is State.PROBED
    assert server.served == []
    assert (await server.lifecycle.activate("alpha", "1.0.0", OPERATOR)).state is State.ACTIVE
    assert server.served == ["alpha@1.0.0"]


async def test_activating_rolling_back_and_deactivating_move_the_name(workshop: Workshop) -> None:
    server = await workshop.server()
    first = await workshop.push(server, "alpha")
    await workshop.push(server, "alpha", "2.0.0", seed=2)
    assert server.served == ["alpha@2.0.0"]
    assert (await server.lifecycle.rollback("alpha", OPERATOR)).digest == first.digest
    assert server.served == ["alpha@1.0.0"]
    await server.lifecycle.deactivate("alpha", OPERATOR)
    assert server.served == []


async def test_a_version_drains_until_its_last_request_has_ended(workshop: Workshop) -> None:
    server = await workshop.server()
    first = await workshop.push(server, "alpha")
    server.held[first.digest] = asyncio.Event()
    await workshop.push(server, "alpha", "2.0.0", seed=2)
    assert server.replica.draining == {first.digest} and server.evicted == []
    server.held[first.digest].set()
    await server.replica.drained(first.digest)
    assert server.replica.draining == frozenset() and server.evicted == [first.digest]


async def test_a_version_that_comes_back_while_it_drains_is_not_unloaded(workshop: Workshop) -> None:
    server = await workshop.server()
    first = await workshop.push(server, "alpha")
    server.held[first.digest] = asyncio.Event()
    await workshop.push(server, "alpha", "2.0.0", seed=2)
    await server.lifecycle.rollback("alpha", OPERATOR)
    server.held[first.digest].set()
    await asyncio.sleep(0)
    assert first.digest not in server.evicted and server.served == ["alpha@1.0.0"]


async def test_a_version_that_fails_its_probe_is_quarantined_with_the_reason(workshop: Workshop) -> None:
    server = await workshop.server()
    server.refused_by_probe.add("alpha")
    with pytest.raises(CatalogueError, match="probe_no_effect"):
        await workshop.push(server, "alpha")
    (version,) = (await views.read(server.lifecycle.database)).versions.values()
    assert (version.state, version.reason) == (State.QUARANTINED, "probe_no_effect")
    with pytest.raises(ConflictError, match="release it first"):
        await workshop.push(server, "alpha")
    server.refused_by_probe.clear()
    assert (await server.lifecycle.release("alpha", "1.0.0", OPERATOR)).state is State.PROBED
    assert server.served == []


async def test_a_quarantined_version_leaves_at_once_and_cannot_be_rolled_back_to(workshop: Workshop) -> None:
    server = await workshop.server()
    await workshop.push(server, "alpha")
    await workshop.push(server, "alpha", "2.0.0", seed=2)
    await server.lifecycle.quarantine("alpha", "1.0.0", OPERATOR, detail="insults people")
    assert server.served == ["alpha@2.0.0"]
    with pytest.raises(ConflictError):
        await server.lifecycle.rollback("alpha", OPERATOR)
    await server.lifecycle.quarantine("alpha", "2.0.0", OPERATOR)
    assert server.served == []


async def test_removing_deletes_files_last_and_leaves_nothing(workshop: Workshop) -> None:
    server = await workshop.server()
    version = await workshop.push(server, "alpha")
    with pytest.raises(ConflictError, match="active"):
        await server.lifecycle.remove("alpha", "1.0.0", OPERATOR)
    server.held[version.digest] = asyncio.Event()
    await server.lifecycle.deactivate("alpha", OPERATOR)
    removal = asyncio.create_task(server.lifecycle.remove("alpha", "1.0.0", OPERATOR))
    await asyncio.sleep(0.2)
    assert not removal.done() and await server.lifecycle.store.has(version.digest)
    server.held[version.digest].set()
    await removal
    assert not await server.lifecycle.store.digests()
    assert not (await views.read(server.lifecycle.database)).versions


async def test_a_new_server_on_the_same_files_serves_what_the_last_one_did(workshop: Workshop) -> None:
    before = await workshop.server()
    await workshop.push(before, "alpha")
    await workshop.push(before, "beta", activate=False)
    after = await workshop.server("two")
    await after.replica.sync()
    assert after.served == before.served == ["alpha@1.0.0"]


async def test_a_replica_follows_what_another_was_asked(workshop: Workshop) -> None:
    one, two = await workshop.server("one"), await workshop.server("two")
    following = asyncio.create_task(two.replica.follow())
    try:
        await workshop.push(one, "alpha")
        await until(lambda: two.served == ["alpha@1.0.0"])
        await workshop.push(one, "alpha", "2.0.0", seed=2)
        await until(lambda: two.served == ["alpha@2.0.0"])
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following


async def test_a_replica_follows_on_after_an_exception_that_nobody_foresaw(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = await workshop.server("one"), await workshop.server("two")
    monkeypatch.setattr(replica_module, "RETRY_SECONDS", 0.1)
    problems = [ZeroDivisionError("unforeseen")]

    def listener(record: CatalogueRecord) -> None:
        if record.versions and problems:
            raise problems.pop()

    two.replica.on_sync(listener)
    following = asyncio.create_task(two.replica.follow())
    try:
        await workshop.push(one, "alpha")
        await until(lambda: two.replica.record.aliases.keys() == {"alpha"} and not problems)
        await workshop.push(one, "alpha", "2.0.0", seed=2)
        await until(lambda: two.served == ["alpha@2.0.0"])
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
    assert "Traceback" in caplog.text and "ZeroDivisionError: unforeseen" in caplog.text


async def test_a_replica_that_cannot_run_a_version_serves_the_former_one_and_says_so(
    workshop: Workshop,
) -> None:
    one, two = await workshop.server("one"), await workshop.server("two")
    first = await workshop.push(one, "alpha")
    await two.replica.sync()
    two.refused_by_probe.add("alpha")
    second = await workshop.push(one, "alpha", "2.0.0", seed=2)
    await two.replica.sync()
    assert two.served == ["alpha@1.0.0"] and set(two.replica.problems) == {second.digest}
    with pytest.raises(NotReadyError, match="cannot serve it yet"):
        await two.lifecycle.activate("alpha", "2.0.0", OPERATOR)
    await one.lifecycle.quarantine("alpha", first.version, OPERATOR)
    await two.replica.sync()
    assert two.served == []
    two.refused_by_probe.clear()
    await two.replica.sync()
    assert two.served == ["alpha@2.0.0"] and not two.replica.problems


async def test_a_store_that_fails_quarantines_nothing(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await workshop.server()
    version = await workshop.push(server, "alpha", activate=False)
    await server.lifecycle.quarantine("alpha", "1.0.0", OPERATOR)

    async def unavailable(digest: str) -> Path:
        raise CatalogueError(digest, "store_unavailable", "the bucket does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(server.lifecycle.store, "folder", unavailable)
        with pytest.raises(CatalogueError, match="store_unavailable"):
            await server.lifecycle.release("alpha", "1.0.0", OPERATOR)
    versions = (await views.read(server.lifecycle.database)).versions
    assert versions[version.digest].state is State.VALIDATED
    assert (await server.lifecycle.activate("alpha", "1.0.0", OPERATOR)).state is State.ACTIVE


async def test_pushing_what_is_just_being_removed_keeps_its_files(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await workshop.server()
    version = await workshop.push(server, "alpha", activate=False)
    remove, pushes = server.lifecycle.store.remove, []

    async def slow(digest: str) -> None:
        pushes.append(asyncio.create_task(workshop.push(server, "alpha")))
        await asyncio.sleep(0.3)
        await remove(digest)

    monkeypatch.setattr(server.lifecycle.store, "remove", slow)
    await server.lifecycle.remove("alpha", "1.0.0", OPERATOR)
    assert (await pushes[0]).state is State.ACTIVE
    assert await server.lifecycle.store.has(version.digest) and server.served == ["alpha@1.0.0"]
