"""One contract for both stores; and what each does when it is killed, damaged, shared or cut off."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import obstore
import pytest

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.manifest import CARD, WEIGHTS, read_manifest
from steer_server.catalogue.object_store import S3Store
from steer_server.catalogue.store import LOCK, LocalStore, Store, open_store
from steer_server.errors import CatalogueError, ConfigError
from tests.catalogue.bench import good_package, manifest, relisted
from tests.support.adapters import tiny_base_model
from tests.support.s3 import S3Server, s3_server


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two package folders by digest."""
    folder = tmp_path_factory.mktemp("packages")
    base: BaseModel = tiny_base_model(folder / "model")
    made = [good_package(folder, name, base) for name in ("amber", "blue")]
    return {read_manifest(path).digest: path for path in made}


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anybody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")


Opener = Callable[[str], Store]


@pytest.fixture(params=["directory", "bucket"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Opens the same store again, as another replica: a bucket's replicas have caches of their own."""
    if request.param == "directory":
        return lambda replica: open_store(str(tmp_path / "store"))
    s3: S3Server = request.getfixturevalue("s3")
    request.getfixturevalue("credentials")
    url = f"s3://{s3.new_bucket()}/some/where"
    return lambda replica: open_store(url, cache=tmp_path / f"cache-{replica}", endpoint=s3.endpoint)


@pytest.fixture
async def store(opener: Opener) -> AsyncIterator[Store]:
    opened = opener("first")
    yield opened
    await opened.close()


@pytest.fixture
async def other(opener: Opener) -> AsyncIterator[Store]:
    opened = opener("second")
    yield opened
    await opened.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def test_what_is_put_is_there_whole_and_read_only(store: Store, packages: dict[str, Path]) -> None:
    digest, package = next(iter(packages.items()))
    assert not await store.has(digest) and await store.digests() == frozenset()
    folder = await store.put(package, digest)
    assert await store.has(digest) and await store.digests() == {digest}
    assert folder == await store.folder(digest)
    assert contents(folder) == contents(package)
    assert not any(path.stat().st_mode & 0o222 for path in folder.iterdir())
    assert await store.usage_bytes() == sum(map(len, contents(package).values()))
    assert os.listdir(store.staging) == [LOCK]


async def test_putting_twice_changes_nothing(store: Store, packages: dict[str, Path]) -> None:
    digest, package = next(iter(packages.items()))
    first = await store.put(package, digest)
    inode = (first / WEIGHTS).stat().st_ino
    assert await store.put(package, digest) == first and (first / WEIGHTS).stat().st_ino == inode
    assert await store.usage_bytes() == sum(map(len, contents(package).values()))


async def test_many_putting_at_once_leave_one_version(
    store: Store, other: Store, packages: dict[str, Path]
) -> None:
    digest, package = next(iter(packages.items()))
    folders = await asyncio.gather(*(one.put(package, digest) for one in (store, other) * 4))
    assert all(contents(folder) == contents(package) for folder in folders)
    assert await store.digests() == {digest}
    await store.sweep([digest], min_age_seconds=0)
    assert await store.usage_bytes() == sum(map(len, contents(package).values()))
    assert contents(await store.folder(digest)) == contents(package)


async def test_another_replica_sees_and_fetches_it(
    store: Store, other: Store, packages: dict[str, Path]
) -> None:
    for digest, package in packages.items():
        await store.put(package, digest)
    assert await other.digests() == set(packages)
    for digest, package in packages.items():
        folders = await asyncio.gather(*(other.folder(digest) for _ in range(4)))
        assert len(set(folders)) == 1 and contents(folders[0]) == contents(package)


async def test_what_is_removed_is_gone_for_everybody(
    store: Store, other: Store, packages: dict[str, Path]
) -> None:
    (digest, package), (kept, second) = packages.items()
    await store.put(package, digest)
    await store.put(second, kept)
    await other.remove(digest)
    await other.remove(digest)
    assert await store.digests() == {kept} and not await store.has(digest)
    await store.sweep([kept], min_age_seconds=0)
    with pytest.raises(CatalogueError) as caught:
        await store.folder(digest)
    assert caught.value.reason == "store_missing"
    assert await store.usage_bytes() == sum(map(len, contents(second).values()))


async def test_a_sweep_removes_what_nobody_keeps_once_it_is_old(
    store: Store, packages: dict[str, Path]
) -> None:
    (old, package), (kept, second) = packages.items()
    await store.put(package, old)
    await store.put(second, kept)
    assert await store.sweep([kept]) == frozenset()
    assert await store.digests() == {old, kept}
    assert await store.sweep([kept], min_age_seconds=0) == {old}
    assert await store.digests() == {kept}
    await store.put(package, old)
    assert contents(await store.folder(old)) == contents(package)


@pytest.mark.parametrize("digest", ["", "../../etc", "A" * 64, "a" * 63 + "/"])
async def test_only_digests_are_names(store: Store, digest: str, packages: dict[str, Path]) -> None:
    package = next(iter(packages.values()))
    for call in (store.has, store.folder, store.remove, lambda digest: store.put(package, digest)):
        with pytest.raises(CatalogueError) as caught:
            await call(digest)
        assert caught.value.reason == "bad_digest"


async def test_files_that_are_not_what_the_digest_says_are_not_stored(
    store: Store, packages: dict[str, Path], tmp_path: Path
) -> None:
    digest, package = next(iter(packages.items()))
    reasons = []
    for i, spoil in enumerate(
        (
            manifest(lambda m: m.update(version="1.0.1")),
            lambda folder: (folder / WEIGHTS).write_bytes(b"short"),
            lambda folder: (folder / WEIGHTS).write_bytes(bytes((folder / WEIGHTS).stat().st_size)),
            lambda folder: (folder / "more.txt").write_text("x"),
        )
    ):
        copy = tmp_path / str(i)
        copy.mkdir()
        for name, content in contents(package).items():
            (copy / name).write_bytes(content)
        spoil(copy)
        with pytest.raises(CatalogueError) as caught:
            await store.put(copy, digest)
        reasons.append(caught.value.reason)
    assert reasons == ["digest_mismatch", "size_mismatch", "sha256_mismatch", "unexpected_file"]
    assert await store.digests() == frozenset() and os.listdir(store.staging) == [LOCK]


async def test_a_cancelled_put_leaves_nothing_unfinished(
    store: Store, packages: dict[str, Path], tmp_path: Path
) -> None:
    digest, package = next(iter(packages.items()))
    rng = random.Random(3)
    for _ in range(12):
        task = asyncio.create_task(store.put(package, digest))
        await asyncio.sleep(rng.random() * 0.01)
        task.cancel()
        await asyncio.wait([task])
        assert os.listdir(store.staging) == [LOCK]
        if await store.has(digest):
            assert contents(await store.folder(digest)) == contents(package)
        await store.remove(digest)
        await store.sweep([], min_age_seconds=0)
        assert await store.usage_bytes() == 0


async def test_the_loop_goes_on_while_a_large_package_is_stored(
    store: Store, packages: dict[str, Path], tmp_path: Path
) -> None:
    large = tmp_path / "large"
    large.mkdir()
    for name, content in contents(next(iter(packages.values()))).items():
        (large / name).write_bytes(content)
    (large / WEIGHTS).write_bytes(os.urandom(2**20) * 64)
    relisted(large)
    putting = asyncio.create_task(store.put(large, read_manifest(large).digest))
    num_turns = 0
    while not putting.done():
        await asyncio.sleep(0.001)
        num_turns += 1
    assert await putting and num_turns > 20


PUTTER = """
import asyncio, sys
from pathlib import Path
from steer_server.catalogue.store import LocalStore
from steer_server.catalogue.manifest import read_manifest

async def main():
    store = LocalStore(Path(sys.argv[1]))
    packages = {read_manifest(Path(p)).digest: Path(p) for p in sys.argv[2:]}
    print("ready", flush=True)
    while True:
        for digest, package in packages.items():
            await store.put(package, digest)
            await store.remove(digest)
asyncio.run(main())
"""


async def test_killed_at_any_moment_a_version_is_whole_or_not_there(
    tmp_path: Path, packages: dict[str, Path]
) -> None:
    rng, root = random.Random(5), tmp_path / "store"
    store = LocalStore(root)
    for _ in range(12):
        command = [sys.executable, "-c", PUTTER, str(root), *map(str, packages.values())]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == b"ready\n"
            time.sleep(rng.random() * 0.05)
            process.send_signal(signal.SIGKILL)
        process.wait()
        for digest in await store.digests():
            assert contents(await store.folder(digest)) == contents(packages[digest])
        removed = await store.sweep([], min_age_seconds=0)
        assert await store.digests() == frozenset() and len(removed) <= 1
        assert os.listdir(root / "staging") == [store.staging.name]
    await store.close()
    assert os.listdir(root / "staging") == []


async def test_a_sweep_leaves_the_unfinished_work_of_live_processes(
    tmp_path: Path, packages: dict[str, Path]
) -> None:
    mine, theirs = LocalStore(tmp_path), LocalStore(tmp_path)
    for store in (mine, theirs):
        (store.staging / "unfinished").mkdir()
    await mine.sweep([], min_age_seconds=0)
    assert (mine.staging / "unfinished").is_dir() and (theirs.staging / "unfinished").is_dir()
    await theirs.close()
    (theirs.staging / "left").mkdir(parents=True)
    await mine.sweep([], min_age_seconds=0)
    assert not theirs.staging.exists()
    await mine.close()


async def test_a_damaged_local_version_is_said_to_be_damaged(
    tmp_path: Path, packages: dict[str, Path]
) -> None:
    digest, package = next(iter(packages.items()))
    store = LocalStore(tmp_path)
    folder = await store.put(package, digest)
    (folder / WEIGHTS).chmod(0o644)
    (folder / WEIGHTS).write_bytes(b"")
    with pytest.raises(CatalogueError) as caught:
        await store.folder(digest)
    assert caught.value.reason == "store_damaged"
    await store.close()


async def test_what_a_bucket_returns_is_not_believed(
    tmp_path: Path, packages: dict[str, Path], s3: S3Server, credentials: None
) -> None:
    digest, package = next(iter(packages.items()))
    url = f"s3://{s3.new_bucket()}"
    writer = S3Store.of(url, LocalStore(tmp_path / "w"), endpoint=s3.endpoint)
    await writer.put(package, digest)
    bucket = writer._bucket
    paths = [item["path"] for item in await obstore.list(bucket).collect_async()]
    victim = next(path for path in paths if path.endswith(CARD))
    for content in (b"# another card\n"[: len(b"# amber\n")], b"# amber\n" + bytes(10**6), b""):
        await obstore.put_async(bucket, victim, content)
        reader = S3Store.of(url, LocalStore(tmp_path / "r"), endpoint=s3.endpoint)
        with pytest.raises(CatalogueError) as caught:
            await reader.folder(digest)
        assert caught.value.reason == "store_damaged" and CARD in caught.value.detail
        assert os.listdir(reader.staging) == [LOCK]
        await reader.close()
    await obstore.put_async(bucket, f"versions/{digest}.json", b'{"upload": "../../x", "files": []}')
    with pytest.raises(CatalogueError, match="store_damaged"):
        await writer.has(digest)
    await writer.close()


async def test_a_damaged_local_copy_is_fetched_again(
    tmp_path: Path, packages: dict[str, Path], s3: S3Server, credentials: None
) -> None:
    digest, package = next(iter(packages.items()))
    store = open_store(f"s3://{s3.new_bucket()}/x", cache=tmp_path, endpoint=s3.endpoint)
    folder = await store.put(package, digest)
    (folder / WEIGHTS).unlink()
    assert contents(await store.folder(digest)) == contents(package)
    await store.close()


async def test_uploads_that_never_became_a_version_are_swept(
    tmp_path: Path, packages: dict[str, Path], s3: S3Server, credentials: None
) -> None:
    (digest, package), (kept, second) = packages.items()
    store = S3Store.of(f"s3://{s3.new_bucket()}", LocalStore(tmp_path), endpoint=s3.endpoint)
    await store.put(second, kept)
    await store._upload(package, digest)
    await store._upload(second, kept)
    assert await store.digests() == {kept}
    await store.sweep([kept])
    assert await store.usage_bytes() > 2 * sum(map(len, contents(second).values()))
    await store.sweep([kept], min_age_seconds=0)
    assert await store.usage_bytes() == sum(map(len, contents(second).values()))
    await store.remove(kept)
    assert await store.usage_bytes() == 0
    await store.close()


async def test_a_bucket_that_does_not_answer_is_an_error_with_a_reason(
    tmp_path: Path, packages: dict[str, Path], credentials: None
) -> None:
    digest, package = next(iter(packages.items()))
    store = open_store("s3://bucket/x", cache=tmp_path, endpoint="http://127.0.0.1:9")
    for call in (
        lambda: store.put(package, digest),
        lambda: store.has(digest),
        lambda: store.digests(),
        lambda: store.usage_bytes(),
        lambda: store.remove(digest),
        lambda: store.sweep([]),
    ):
        with pytest.raises(CatalogueError) as caught:
            await call()
        assert caught.value.reason == "store_unavailable" and "\n" not in caught.value.detail
    assert contents(await store.folder(digest)) == contents(package), "what is cached is served on"
    await store.close()


@pytest.mark.parametrize("url", ["", "ftp://x/y", "s3://", "s3://bucket/x", "/dev/null/store"])
def test_a_store_that_cannot_be_opened_stops_the_start(url: str) -> None:
    with pytest.raises(ConfigError):
        open_store(url)
