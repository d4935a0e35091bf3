"""A store in an S3-compatible bucket, with local copies in front of it.

    <prefix>/versions/<digest>.json             says which upload holds the version, with sizes and hashes
    <prefix>/files/<digest>/<upload>/<name>     written before it, removed after it

An object is written whole or not at all, so a version is visible exactly when its JSON is there. Uploads
never share files, so two replicas may put one version at the same time: one of the two is then referred to,
and the other is swept.

Not covered: parts of an upload that a crash cut off are invisible and cost space; let the bucket's lifecycle
rule abort incomplete multipart uploads. A bucket has no locks: a sweep that is about to remove an old version
and a replica that puts it again at that moment must be kept apart by the database.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store as Bucket
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from steer_server.catalogue.manifest import MAX_MANIFEST_BYTES, FileEntry, file_sha256
from steer_server.catalogue.store import DEFAULT_MIN_AGE_SECONDS, DIGEST, LocalStore, checked_digest
from steer_server.catalogue.threads import Stop, in_thread, on_disk
from steer_server.errors import CatalogueError, ConfigError

if TYPE_CHECKING:
    from obstore import ObjectMeta

CHUNK_BYTES = 4 * 2**20
RETRIES = 3
TIMEOUT = timedelta(seconds=30)
"""For one request; a larger file is sent in parts."""


class _Version(BaseModel):
    """The JSON that makes a version visible."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    upload: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    files: tuple[FileEntry, ...]
    """All of them, also those that the manifest does not list."""


class S3Store:
    """See `store.Store`. `cache` is ours: `remove`, `sweep` and `close` reach it too."""

    def __init__(self, bucket: Bucket, cache: LocalStore) -> None:
        self._bucket, self._cache = bucket, cache
        self._fetching: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @classmethod
    def of(cls, url: str, cache: LocalStore, *, endpoint: str = "") -> S3Store:
        """Raises: ConfigError when the URL or the endpoint cannot be understood."""
        name, _, prefix = url.removeprefix("s3://").partition("/")
        if not name:
            raise ConfigError(f"the store {url!r} names no bucket: s3://bucket/prefix")
        try:
            bucket = Bucket(
                name,
                prefix=prefix.strip("/") or None,
                config={"endpoint": endpoint} if endpoint else None,
                client_options={"allow_http": endpoint.startswith("http://"), "timeout": TIMEOUT},
                retry_config={"max_retries": RETRIES, "retry_timeout": 3 * TIMEOUT},
            )
        except (BaseError, ValueError) as error:
            raise ConfigError(f"the store {url!r}: {_first_line(error)}") from error
        return cls(bucket, cache)

    @property
    def staging(self) -> Path:
        return self._cache.staging

    async def put(self, folder: Path, digest: str) -> Path:
        local = await self._cache.put(folder, digest)
        with _reachable(digest):
            version = await self._version(digest) or await self._upload(local, digest)
            # Written anew also when it was there: its age is that of the last put.
            await obstore.put_async(self._bucket, _key(digest), version.model_dump_json().encode())
        return local

    async def folder(self, digest: str) -> Path:
        async with self._fetching[digest]:
            try:
                return await self._cache.folder(digest)
            except CatalogueError as error:
                if error.reason == "store_damaged":
                    await self._cache.remove(digest)
                elif error.reason != "store_missing":
                    raise
            with _reachable(digest):
                version = await self._version(digest)
                if version is None:
                    raise CatalogueError(digest, "store_missing", "the store has no such version")
                # Not in a thread: cancelled, it would leave a folder that nobody knows.
                fetched = Path(tempfile.mkdtemp(dir=self.staging, prefix="fetch-"))
                try:
                    for entry in version.files:
                        await self._fetch(digest, version.upload, entry, fetched / entry.path)
                    return await self._cache.put(fetched, digest)
                finally:
                    await in_thread(lambda _: shutil.rmtree(fetched, ignore_errors=True))

    async def has(self, digest: str) -> bool:
        with _reachable(digest):
            return await self._version(digest) is not None

    async def digests(self) -> frozenset[str]:
        with _reachable("store"):
            return frozenset(_digest_of(item) for item in await self._list("versions")) - {""}

    async def remove(self, digest: str) -> None:
        with _reachable(digest):
            await self._remove(digest)
        await self._cache.remove(digest)

    async def sweep(
        self, keep: Collection[str], *, min_age_seconds: float = DEFAULT_MIN_AGE_SECONDS
    ) -> frozenset[str]:
        oldest = datetime.now(UTC) - timedelta(seconds=min_age_seconds)
        removed = set()
        with _reachable("store"):
            # Files first: an upload that becomes a version in between is then found to be one.
            files = await self._list("files")
            for item in await self._list("versions"):
                digest = _digest_of(item)
                if digest and digest not in keep and item["last_modified"] <= oldest:
                    await self._remove(digest)
                    removed.add(digest)
            for digest in {_digest_of(item) for item in files} - removed - {""}:
                version = await self._version(digest)
                used = f"files/{digest}/{version.upload}/" if version else "nothing"
                await self._delete(
                    item["path"]
                    for item in files
                    if item["path"].startswith(f"files/{digest}/")
                    and not item["path"].startswith(used)
                    and item["last_modified"] <= oldest
                )
        return frozenset(removed | await self._cache.sweep(keep, min_age_seconds=min_age_seconds))

    async def usage_bytes(self) -> int:
        with _reachable("store"):
            return sum(item["size"] for item in await self._list("files"))

    async def close(self) -> None:
        await self._cache.close()

    async def _version(self, digest: str) -> _Version | None:
        try:
            answer = await obstore.get_async(self._bucket, _key(digest))
            if answer.meta["size"] > MAX_MANIFEST_BYTES:
                raise CatalogueError(digest, "store_damaged", f"{_key(digest)} is too large")
            return _Version.model_validate_json(bytes(await answer.bytes_async()))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise CatalogueError(
                digest, "store_damaged", f"{_key(digest)} is not what was written"
            ) from error

    async def _upload(self, folder: Path, digest: str) -> _Version:
        def describe(_: Stop) -> tuple[FileEntry, ...]:
            return tuple(
                FileEntry(path=path.name, size_bytes=path.stat().st_size, sha256=file_sha256(path))
                for path in sorted(folder.iterdir())
            )

        version = _Version(upload=uuid.uuid4().hex, files=await on_disk(digest, describe))
        for entry in version.files:
            key = f"files/{digest}/{version.upload}/{entry.path}"
            await obstore.put_async(self._bucket, key, folder / entry.path, max_concurrency=2)
        return version

    async def _fetch(self, digest: str, upload: str, entry: FileEntry, target: Path) -> None:
        """One file, of which no more is read than was stored."""
        damaged = CatalogueError(digest, "store_damaged", f"{entry.path} is not what was stored")
        try:
            answer = await obstore.get_async(self._bucket, f"files/{digest}/{upload}/{entry.path}")
        except FileNotFoundError as error:
            raise CatalogueError(digest, "store_missing", f"{entry.path} is gone") from error
        hashed, size = hashlib.sha256(), 0
        with target.open("xb") as file:
            async for piece in answer.stream(CHUNK_BYTES):
                size += len(piece)
                if size > entry.size_bytes:
                    raise damaged

                def write(_: Stop, piece: bytes = piece) -> None:
                    hashed.update(piece)
                    file.write(piece)

                await on_disk(digest, write)
        if size != entry.size_bytes or hashed.hexdigest() != entry.sha256:
            raise damaged

    async def _remove(self, digest: str) -> None:
        await self._delete([_key(digest)])
        await self._delete(item["path"] for item in await self._list(f"files/{digest}"))

    async def _delete(self, paths: Collection[str] | Iterator[str]) -> None:
        if listed := list(paths):
            await obstore.delete_async(self._bucket, listed)

    async def _list(self, prefix: str) -> list[ObjectMeta]:
        return list(await obstore.list(self._bucket, prefix).collect_async())


@contextmanager
def _reachable(label: str) -> Iterator[None]:
    """Translates what the bucket's client raises."""
    try:
        yield
    except (BaseError, OSError) as error:
        raise CatalogueError(label, "store_unavailable", _first_line(error)) from error


def _key(digest: str) -> str:
    return f"versions/{checked_digest(digest)}.json"


def _digest_of(item: ObjectMeta) -> str:
    """The version that an object belongs to; empty for an object that is not ours."""
    digest = item["path"].split("/")[1].removesuffix(".json")
    return digest if DIGEST.fullmatch(digest) else ""


def _first_line(error: Exception) -> str:
    """The client's messages go on for a page."""
    return str(error).strip().split("\n", 1)[0][:300]
