"""Staging and packing: what holds for good packages, cut-off uploads and full disks."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from steer_server.catalogue.intake import PackageLimits
from steer_server.catalogue.manifest import CARD, MANIFEST, WEIGHTS, read_manifest
from steer_server.catalogue.package import pack, read_package, stage_archive, stage_folder
from steer_server.catalogue.threads import Stop, StoppedError, in_thread
from steer_server.errors import CatalogueError
from tests.catalogue.archives import tar_of
from tests.catalogue.bench import good_package, relisted, written
from tests.support.adapters import tiny_base_model
from tests.support.waiting import until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return good_package(tmp_path / "packages", "good", tiny_base_model(tmp_path / "model"))


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    (tmp_path / "staging").mkdir()
    return tmp_path / "staging"


async def pieces(content: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def test_a_staged_package_is_ours_alone_and_gone_afterwards(folder: Path, staging: Path) -> None:
    async with stage_archive(pieces(b"".join(pack(folder))), staging, label="upload-7") as package:
        assert package.manifest == read_manifest(folder)
        assert package.folder.name == "upload-7" and package.folder.is_relative_to(staging)
        assert {p.name for p in package.folder.iterdir()} == {p.name for p in folder.iterdir()}
        assert package.folder.parent.stat().st_mode & 0o077 == 0
    assert os.listdir(staging) == []
    with pytest.raises(RuntimeError, match="ours"):
        async with stage_folder(folder, folder.parent, staging):
            raise RuntimeError("ours")
    assert os.listdir(staging) == []


async def test_an_archive_can_lie_in_an_open_file(folder: Path, staging: Path, tmp_path: Path) -> None:
    (tmp_path / "package.tar").write_bytes(tar_of(folder))
    with (tmp_path / "package.tar").open("rb") as file:
        async with stage_archive(file, staging) as package:
            assert package.manifest == read_manifest(folder)
        with pytest.raises(CatalogueError) as caught:
            async with stage_archive(file, staging, limits=PackageLimits(compressed_bytes=1000)):
                pass
    assert caught.value.reason == "archive_too_large"


async def test_an_upload_that_breaks_off_leaves_nothing(folder: Path, staging: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield tar_of(folder)[:5000]
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        async with stage_archive(broken(), staging):
            pass
    assert os.listdir(staging) == []


async def test_an_upload_that_never_ends_is_ended(staging: Path) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1000
            yield bytes(1000)

    with pytest.raises(CatalogueError) as caught:
        async with stage_archive(endless(), staging, limits=PackageLimits(compressed_bytes=10_000)):
            pass
    assert caught.value.reason == "archive_too_large" and sent == 11_000
    assert os.listdir(staging) == []


@pytest.mark.parametrize("turns", [1, 2, 3, 5, 8, 13, 40])
async def test_a_cancelled_upload_leaves_nothing(folder: Path, staging: Path, turns: int) -> None:
    large = os.urandom(2**20) * 16
    written(WEIGHTS, large)(folder)
    relisted(folder)
    archive = b"".join(pack(folder))

    async def stage() -> None:
        async with stage_archive(pieces(archive, 2**20), staging):
            await asyncio.sleep(60)

    task = asyncio.create_task(stage())
    for _ in range(turns):
        await asyncio.sleep(0.002)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert os.listdir(staging) == []


async def test_a_thread_ends_before_its_cancelled_caller_goes_on() -> None:
    has_begun = ended = False

    def work(stop: Stop) -> None:
        nonlocal has_begun, ended
        has_begun = True
        try:
            while True:
                stop.check()
        except StoppedError:
            ended = True
            raise

    task = asyncio.create_task(in_thread(work))
    await until(lambda: has_begun)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended


async def test_a_staging_folder_that_is_not_there_is_a_failure_of_the_storage(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(CatalogueError) as caught:
        async with stage_folder(folder, folder.parent, tmp_path / "missing"):
            pass
    assert caught.value.reason == "storage_failed"


@pytest.mark.parametrize(
    ("source", "reason", "named"),
    [
        ("packages/gone", "not_a_folder", "'gone'"),
        ("packages/inner/gone", "not_a_folder", "'inner/gone'"),
        ("packages/linked", "outside_root", "'linked'"),
        ("packages/circle", "not_a_folder", "'circle'"),
        ("elsewhere", "outside_root", "'elsewhere'"),
    ],
)
async def test_a_refused_folder_is_named_from_the_root_and_not_by_where_that_is(
    folder: Path, staging: Path, tmp_path: Path, source: str, reason: str, named: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder.parent / "linked").symlink_to(tmp_path / "elsewhere")
    (folder.parent / "circle").symlink_to(folder.parent / "circle")
    with pytest.raises(CatalogueError) as caught:
        async with stage_folder(tmp_path / source, folder.parent, staging):
            pass
    assert caught.value.reason == reason
    assert named in caught.value.detail and str(tmp_path) not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_file_that_may_not_be_read_is_named(folder: Path, staging: Path) -> None:
    (folder / CARD).chmod(0)
    with pytest.raises(CatalogueError) as caught:
        async with stage_folder(folder, folder.parent, staging):
            pass
    assert caught.value.reason == "folder_unreadable" and CARD in caught.value.detail


def test_packing_gives_the_same_bytes_for_the_same_files(folder: Path, tmp_path: Path) -> None:
    first = hashlib.sha256(b"".join(pack(folder))).hexdigest()
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for path in sorted(folder.iterdir(), reverse=True):
        (copy / path.name).write_bytes(path.read_bytes())
        os.utime(copy / path.name, (0, 0))
    assert hashlib.sha256(b"".join(pack(copy))).hexdigest() == first


def test_any_tar_can_open_what_is_packed(folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(b"".join(pack(folder)))) as tar:
        assert tar.getnames() == sorted(path.name for path in folder.iterdir())
        file = tar.extractfile(WEIGHTS)
        assert file is not None and file.read() == (folder / WEIGHTS).read_bytes()


def test_packing_refuses_what_an_upload_would_be_refused_for(folder: Path) -> None:
    written("notes.txt", "x")(folder)
    with pytest.raises(CatalogueError, match=r"unexpected_file: 'notes.txt'"):
        pack(folder)
    (folder / "notes.txt").unlink()
    (folder / MANIFEST).unlink()
    with pytest.raises(CatalogueError, match="manifest_missing"):
        read_package(folder)
