"""The store: packages by content digest, owned by the server and immutable.

    versions/<digest>/...       whole or not there: a version appears by one rename
    staging/<process>/...       unfinished work; each process holds a lock on its own folder

`LocalStore` is a directory; `object_store.S3Store` adds a bucket behind it. Both are `Store`. Paths that they
return may be read by any process and are never written again.

Not covered here: which versions are wanted (the database knows), and whether they are any good.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from steer_server.catalogue.intake import CHUNK_BYTES
from steer_server.catalogue.manifest import MANIFEST, read_manifest
from steer_server.catalogue.package import read_package
from steer_server.catalogue.threads import Stop, on_disk
from steer_server.errors import CatalogueError, ConfigError, without_path

DIGEST = re.compile(r"[0-9a-f]{64}")
VERSIONS = "versions"
LOCK = ".lock"
DEFAULT_MIN_AGE_SECONDS = 3600.0
"""Younger versions that nobody wants may have been stored by a replica that is about to say so."""


class Store(Protocol):
    """Every method raises CatalogueError: storage_failed (our disk) or store_unavailable (the bucket)."""

    @property
    def staging(self) -> Path:
        """A folder for unfinished packages, on the store's own file system."""

    async def put(self, folder: Path, digest: str) -> Path:
        """Stores a copy of a package folder. Returns: the stored folder, as `folder` does.

        What is there already stays as it is; its age starts anew. A crash leaves nothing that can be seen,
        or the whole.

        Raises: CatalogueError: digest_mismatch, size_mismatch or sha256_mismatch when the files are not what
            the digest says, and what `read_package` raises.
        """

    async def folder(self, digest: str) -> Path:
        """The local read-only copy. Raises: CatalogueError: store_missing, store_damaged."""

    async def has(self, digest: str) -> bool: ...

    async def digests(self) -> frozenset[str]:
        """Of all versions that are there."""

    async def remove(self, digest: str) -> None:
        """Takes a version away at once and then its files; nothing happens when it is not there."""

    async def sweep(
        self, keep: Collection[str], *, min_age_seconds: float = DEFAULT_MIN_AGE_SECONDS
    ) -> frozenset[str]:
        """Removes what crashes left, and versions that are not in `keep` and older than the given age.

        Returns: the digests of removed versions. Unfinished work of processes that live is left alone.
        """

    async def usage_bytes(self) -> int:
        """Size of all stored versions."""

    async def close(self) -> None:
        """Removes this process's unfinished work."""


def open_store(url: str, *, cache: Path | None = None, endpoint: str = "") -> Store:
    """The store that a URL names: a directory's path, or `s3://bucket/prefix`. Blocking, briefly.

    Args:
        cache: directory for local copies of what is in a bucket; a directory store needs none.
        endpoint: of an S3-compatible server other than AWS. Credentials and region come from the usual
            `AWS_...` variables or the machine's role.

    Raises: ConfigError when the URL is of another kind, or the directory cannot be used.
    """
    if url.startswith("s3://"):
        from steer_server.catalogue.object_store import S3Store

        if cache is None:
            raise ConfigError(f"the store {url} needs a directory for local copies")
        return S3Store.of(url, LocalStore(cache), endpoint=endpoint)
    if "://" in url or not url:
        raise ConfigError(f"the store {url!r} is neither a directory nor s3://bucket/prefix")
    return LocalStore(Path(url))


def local_versions(url: str, cache: Path) -> Path:
    """Where the version folders lie that `open_store` of the same arguments has on this machine."""
    return (cache if "://" in url or not url else Path(url)) / VERSIONS


class LocalStore:
    """A directory. Several processes may share it, on several machines where its file system has locks.

    Raises: ConfigError when the directory cannot be made or written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._versions = self.root / VERSIONS
        self._all_staging = self.root / "staging"
        try:
            for folder in (self._versions, self._all_staging):
                folder.mkdir(parents=True, exist_ok=True)
            with _locked(self.root / LOCK, fcntl.LOCK_SH):
                self.staging = self._all_staging / uuid.uuid4().hex
                self.staging.mkdir()
                # Held until the process ends, however it ends: `sweep` takes what it can lock.
                self._lock = os.open(self.staging / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
                fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError as error:
            raise ConfigError(f"the store {root} cannot be used: {error.strerror}") from error

    async def put(self, folder: Path, digest: str) -> Path:
        return await on_disk(folder.name, partial(self._put, folder, self._path(digest)))

    async def folder(self, digest: str) -> Path:
        path = self._path(digest)
        return await on_disk(digest, lambda _: self._checked(path))

    async def has(self, digest: str) -> bool:
        path = self._path(digest)
        return await on_disk(digest, lambda _: path.is_dir())

    async def digests(self) -> frozenset[str]:
        return await on_disk("store", lambda _: frozenset(path.name for path in self._all()))

    async def remove(self, digest: str) -> None:
        path = self._path(digest)
        await on_disk(digest, lambda _: self._remove(path))

    async def sweep(
        self, keep: Collection[str], *, min_age_seconds: float = DEFAULT_MIN_AGE_SECONDS
    ) -> frozenset[str]:
        return await on_disk("store", lambda _: self._sweep(frozenset(keep), min_age_seconds))

    async def usage_bytes(self) -> int:
        return await on_disk("store", lambda _: sum(_size(path) for path in self._all()))

    async def close(self) -> None:
        await asyncio.to_thread(shutil.rmtree, self.staging, ignore_errors=True)
        os.close(self._lock)

    def _path(self, digest: str) -> Path:
        return self._versions / checked_digest(digest)

    def _all(self) -> list[Path]:
        return [path for path in self._versions.iterdir() if DIGEST.fullmatch(path.name)]

    def _put(self, source: Path, target: Path, stop: Stop) -> Path:
        with _locked(self.root / LOCK, fcntl.LOCK_SH):
            if target.is_dir():
                os.utime(target)
                return target
        staged = self.staging / uuid.uuid4().hex
        try:
            staged.mkdir()
            _copy_checked(source, staged, target.name, stop)
            _sync(staged)
            try:
                staged.rename(target)
            except OSError:
                if not target.is_dir():  # else somebody was faster, with the same content
                    raise
            _sync(self._versions)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return target

    def _checked(self, path: Path) -> Path:
        if not path.is_dir():
            raise CatalogueError(path.name, "store_missing", "the store has no such version")
        try:
            manifest = read_manifest(path)
            sizes = {entry.path: (path / entry.path).stat().st_size for entry in manifest.files}
        except (CatalogueError, OSError) as error:
            raise CatalogueError(path.name, "store_damaged", without_path(error)) from error
        wrong = [e.path for e in manifest.files if sizes[e.path] != e.size_bytes]
        if wrong or manifest.digest != path.name:
            raise CatalogueError(path.name, "store_damaged", ", ".join(wrong) or MANIFEST)
        return path

    def _remove(self, path: Path) -> None:
        gone = self.staging / uuid.uuid4().hex
        try:
            path.rename(gone)
        except FileNotFoundError:
            return
        _sync(self._versions)
        shutil.rmtree(gone)

    def _sweep(self, keep: frozenset[str], min_age_seconds: float) -> frozenset[str]:
        with _locked(self.root / LOCK, fcntl.LOCK_EX):
            for staging in self._all_staging.iterdir():
                # Never our own: on some network file systems a process does not see its own locks.
                if staging != self.staging:
                    _remove_if_unlocked(staging)
            oldest = time.time() - min_age_seconds
            removed = [p for p in self._all() if p.name not in keep and p.stat().st_mtime <= oldest]
            for path in removed:
                self._remove(path)
        return frozenset(path.name for path in removed)


def checked_digest(digest: str) -> str:
    """The digest, fit to be part of a path. Raises: CatalogueError bad_digest."""
    if not DIGEST.fullmatch(digest):
        raise CatalogueError(digest[:80], "bad_digest", "a digest has 64 hexadecimal digits")
    return digest


@contextmanager
def _locked(path: Path, mode: int) -> Iterator[None]:
    """Holds a lock on a file, so that `sweep` meets nobody between making something and marking it as his."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, mode)
        yield
    finally:
        os.close(file)


def _remove_if_unlocked(staging: Path) -> None:
    try:
        file = os.open(staging / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:  # its process removed it just now
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        shutil.rmtree(staging, ignore_errors=True)
    finally:
        os.close(file)


def _copy_checked(source: Path, target: Path, digest: str, stop: Stop) -> None:
    """Copies a package and hashes what is written, not what was there a moment before."""
    read_package(source)
    hashes, sizes = {}, {}
    for path in sorted(source.iterdir()):
        hashes[path.name], sizes[path.name] = _copy(path, target / path.name, stop)
    manifest = read_manifest(target)
    if manifest.digest != digest:
        raise CatalogueError(manifest.name, "digest_mismatch", f"{MANIFEST} has digest {manifest.digest}")
    for entry in manifest.files:
        if sizes.get(entry.path) != entry.size_bytes:
            raise CatalogueError(manifest.name, "size_mismatch", entry.path)
        if hashes[entry.path] != entry.sha256:
            raise CatalogueError(manifest.name, "sha256_mismatch", entry.path)


def _copy(source: Path, target: Path, stop: Stop) -> tuple[str, int]:
    digest = hashlib.sha256()
    size = 0
    with (
        open(os.open(source, os.O_RDONLY | os.O_NOFOLLOW), "rb") as reader,
        target.open("xb") as writer,
    ):
        while piece := reader.read(CHUNK_BYTES):
            stop.check()
            digest.update(piece)
            size += writer.write(piece)
        writer.flush()
        os.fchmod(writer.fileno(), 0o444)
        os.fsync(writer.fileno())
    return digest.hexdigest(), size


def _sync(folder: Path) -> None:
    """Makes names in the folder survive a power cut."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _size(folder: Path) -> int:
    try:
        return sum(path.stat().st_size for path in folder.iterdir())
    except FileNotFoundError:  # removed meanwhile
        return 0
