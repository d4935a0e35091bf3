"""Every bad package is refused with its own reason on the way that an upload takes, and leaves nothing."""

from __future__ import annotations

import asyncio
import gzip
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.intake import PackageLimits
from steer_server.catalogue.manifest import WEIGHTS, read_manifest
from steer_server.catalogue.package import pack, stage_archive, stage_folder
from steer_server.catalogue.signatures import SignaturePolicy, read_public_keys, sign, verify
from steer_server.catalogue.store import LOCK, LocalStore
from steer_server.catalogue.validation import validate_folder
from steer_server.errors import CatalogueError
from tests.catalogue.archives import tar_of, zip_with
from tests.catalogue.bad_packages import BAD_PACKAGES, BadPackage
from tests.catalogue.bench import Bench, bench_of, file, good_package, make_keys
from tests.support.adapters import tiny_base_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, base: BaseModel) -> Path:
    return good_package(tmp_path_factory.mktemp("packages"), "good", base)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_keys(tmp_path_factory.mktemp("keys") / "keys")


@pytest.fixture
def bench(good: Path, tmp_path: Path, keys: Path) -> Bench:
    return bench_of(good, tmp_path, keys)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalStore]:
    store = LocalStore(tmp_path / "store")
    yield store
    await store.close()


async def arriving(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 70_001):
        await asyncio.sleep(0)
        yield content[start : start + 70_001]


async def take_in(
    source: bytes | Path,
    store: LocalStore,
    base: BaseModel,
    bench: Bench,
    *,
    limits: PackageLimits | None = None,
    policy: SignaturePolicy = SignaturePolicy.OFF,
) -> str:
    """The way of an upload. Returns: the digest under which it is stored."""
    trusted = read_public_keys([bench.keys / "trusted.pub"])
    options = {"limits": limits} if limits else {}
    if isinstance(source, bytes):
        staged = stage_archive(arriving(source), store.staging, **options)
    else:
        staged = stage_folder(source, bench.folder.parent, store.staging, **options)
    async with staged as package:
        verify(package.folder, trusted, policy, label=package.manifest.name)
        validate_folder(package.folder, base, max_rank=8)
        await store.put(package.folder, package.manifest.digest)
    return package.manifest.digest


def remains(store: LocalStore) -> list[str]:
    return sorted(
        str(path.relative_to(store.root))
        for path in store.root.rglob("*")
        if path.name != LOCK and path != store.staging
    )


@pytest.mark.parametrize("bad", BAD_PACKAGES, ids=[bad.name for bad in BAD_PACKAGES])
async def test_a_bad_package_is_refused_with_its_reason_and_leaves_nothing(
    bad: BadPackage, bench: Bench, store: LocalStore, base: BaseModel
) -> None:
    source = bad.make(bench)
    with pytest.raises(CatalogueError) as caught:
        await take_in(source, store, base, bench, limits=bad.limits, policy=bad.policy)
    assert caught.value.reason == bad.reason, str(caught.value)
    assert caught.value.detail.isprintable() and len(caught.value.detail) < 600
    assert remains(store) == ["staging", "versions"]


def test_the_corpus_has_no_name_twice() -> None:
    names = [bad.name for bad in BAD_PACKAGES]
    assert len(names) == len(set(names)) >= 45


GOOD = {
    "a tar": lambda folder: tar_of(folder),
    "a tar with a folder around": lambda folder: tar_of(folder, top="good-1.0.0/"),
    "a tar with dots before": lambda folder: tar_of(folder, top="./"),
    "a tar.gz": lambda folder: gzip.compress(tar_of(folder)),
    "a zip": lambda folder: zip_with(lambda archive: None, folder),
    "a zip with a folder around": lambda folder: zip_with(
        lambda archive: archive.mkdir("good"), folder, top="good/"
    ),
    "what pack writes": lambda folder: b"".join(pack(folder)),
    "a folder": lambda folder: folder,
}


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD.keys())
async def test_a_good_package_is_accepted(make, bench: Bench, store: LocalStore, base: BaseModel) -> None:
    sign(bench.folder, bench.keys / "trusted.key")
    digest = await take_in(make(bench.folder), store, base, bench, policy=SignaturePolicy.REQUIRE)
    stored = await store.folder(digest)
    assert read_manifest(stored) == read_manifest(bench.folder)
    assert {p.name: p.read_bytes() for p in stored.iterdir()} == {
        p.name: p.read_bytes() for p in bench.folder.iterdir()
    }
    assert [name for name in remains(store) if name.startswith("staging/")] == []


@pytest.mark.parametrize(
    "make", [GOOD["a tar"], GOOD["a tar.gz"], GOOD["a zip"]], ids=["tar", "tar.gz", "zip"]
)
async def test_no_damage_to_an_archive_gets_anything_else_than_a_refusal(
    make, bench: Bench, store: LocalStore, base: BaseModel
) -> None:
    whole, rng = make(bench.folder), random.Random(7)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 3, 40])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        if rng.random() < 0.2:
            del damaged[rng.randrange(len(damaged)) :]
        try:
            await take_in(bytes(damaged), store, base, bench)
        except CatalogueError as error:
            assert error.reason and error.detail
    assert await store.digests() <= {read_manifest(bench.folder).digest}


def test_no_damage_to_the_weights_gets_anything_else_than_a_refusal(bench: Bench, base: BaseModel) -> None:
    whole, rng = (bench.folder / WEIGHTS).read_bytes(), random.Random(7)
    header = int.from_bytes(whole[:8], "little")
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 2, 20])):
            damaged[rng.randrange(8 + header)] = rng.randrange(256)
        file(WEIGHTS, bytes(damaged))(bench.folder)
        try:
            validate_folder(bench.folder, base, max_rank=8)
        except CatalogueError as error:
            assert error.reason and error.detail
