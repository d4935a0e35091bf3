from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from steer_server.catalogue import directory as directory_module
from steer_server.catalogue.directory import AdapterDirectory
from steer_server.errors import ConfigError
from tests.catalogue.test_lifecycle import OPERATOR, Server, Workshop
from tests.support.adapters import random_adapter
from tests.support.waiting import until


@pytest.fixture
async def workshop(tmp_path: Path, sqlite_url: str) -> AsyncIterator[Workshop]:
    made = Workshop(tmp_path, sqlite_url)
    (tmp_path / "adapters").mkdir()
    yield made
    await made.close()


def drop_in(workshop: Workshop, name: str, seed: int = 1, version: str = "1.0.0") -> None:
    random_adapter(workshop.folder / "adapters", name, workshop.base, seed=seed, version=version)


def directory_of(workshop: Workshop, server: Server) -> AdapterDirectory:
    return AdapterDirectory(workshop.folder / "adapters", server.lifecycle)


async def test_what_lies_in_the_directory_is_served_and_a_bad_folder_is_refused_by_itself(
    workshop: Workshop,
) -> None:
    server = await workshop.server()
    drop_in(workshop, "alpha")
    drop_in(workshop, "broken")
    weights = workshop.folder / "adapters" / "broken" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    directory = directory_of(workshop, server)
    await directory.read()
    assert server.served == ["alpha@1.0.0"]
    assert [(one.folder_name, one.reason) for one in directory.refused] == [("broken", "size_mismatch")]


async def test_a_folder_that_changed_without_a_new_version_becomes_one_of_its_own(workshop: Workshop) -> None:
    server = await workshop.server()
    drop_in(workshop, "alpha", seed=1)
    directory = directory_of(workshop, server)
    await directory.read()
    first = server.replica.catalogue.adapters[0].digest
    shutil.rmtree(workshop.folder / "adapters" / "alpha")
    drop_in(workshop, "alpha", seed=2)
    await directory.read()
    assert not directory.refused
    (second,) = server.replica.catalogue.adapters
    assert second.digest != first and second.title == f"alpha@1.0.0+{second.digest[:8]}"


async def test_a_name_whose_folder_is_gone_is_deactivated_and_others_pushes_are_not(
    workshop: Workshop,
) -> None:
    server = await workshop.server()
    drop_in(workshop, "alpha")
    directory = directory_of(workshop, server)
    await directory.read()
    await workshop.push(server, "beta")
    shutil.rmtree(workshop.folder / "adapters" / "alpha")
    await directory.read()
    assert server.served == ["beta@1.0.0"]


async def test_what_an_operator_decided_about_a_version_holds_when_the_directory_is_read_again(
    workshop: Workshop,
) -> None:
    server = await workshop.server()
    drop_in(workshop, "alpha", seed=1)
    drop_in(workshop, "beta", seed=3)
    directory = directory_of(workshop, server)
    await directory.read()
    shutil.rmtree(workshop.folder / "adapters" / "alpha")
    drop_in(workshop, "alpha", seed=2, version="2.0.0")
    await directory.read()
    await server.lifecycle.rollback("alpha", OPERATOR)
    await server.lifecycle.quarantine("beta", "1.0.0", OPERATOR, detail="insults people")
    await directory.read()
    assert server.served == ["alpha@1.0.0"]
    assert [(one.folder_name, one.detail) for one in directory.refused] == [("beta", "insults people")]


async def test_a_watched_directory_is_followed(workshop: Workshop) -> None:
    server = await workshop.server()
    directory = directory_of(workshop, server)
    await directory.read()
    watching = asyncio.create_task(directory.watch())
    try:
        await asyncio.sleep(0.5)
        drop_in(workshop, "alpha")
        await until(lambda: server.served == ["alpha@1.0.0"])
        shutil.rmtree(workshop.folder / "adapters" / "alpha")
        await until(lambda: server.served == [])
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def test_a_watched_directory_is_read_again_after_anything_that_went_wrong(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = await workshop.server()
    directory = directory_of(workshop, server)
    monkeypatch.setattr(directory_module, "RETRY_SECONDS", 0.1)
    push, problems = server.lifecycle.push, [ZeroDivisionError("unforeseen")]

    async def failing(*args: Any, **options: Any) -> Any:
        if problems:
            raise problems.pop()
        return await push(*args, **options)

    monkeypatch.setattr(server.lifecycle, "push", failing)
    watching = asyncio.create_task(directory.watch())
    try:
        await asyncio.sleep(0.5)
        drop_in(workshop, "alpha")
        await until(lambda: server.served == ["alpha@1.0.0"])
        drop_in(workshop, "beta")
        await until(lambda: server.served == ["alpha@1.0.0", "beta@1.0.0"])
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
    assert "Traceback" in caplog.text and "ZeroDivisionError: unforeseen" in caplog.text


async def test_a_directory_that_does_not_exist_stops_the_start(workshop: Workshop) -> None:
    server = await workshop.server()
    with pytest.raises(ConfigError, match="no such directory"):
        AdapterDirectory(workshop.folder / "nothing", server.lifecycle)


async def test_replicas_that_read_the_same_directory_at_once_refuse_nothing(workshop: Workshop) -> None:
    first, second = await workshop.server("one"), await workshop.server("two")
    for n in range(3):
        drop_in(workshop, f"alpha{n}", seed=n)
    directories = [directory_of(workshop, server) for server in (first, second)]
    await asyncio.gather(*(directory.read() for directory in directories))
    assert [directory.refused for directory in directories] == [(), ()]
    for server in (first, second):
        await server.replica.sync()
        assert server.served == [f"alpha{n}@1.0.0" for n in range(3)]
