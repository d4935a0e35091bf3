"""Adapter packages on their way in and out: an archive or a folder becomes a staged folder, and back.

    async with stage_archive(stream, store.staging) as package:
        adapter = validate_folder(package.folder, base, max_rank)     # in a thread
        await store.put(package.folder, package.manifest.digest)

The staged folder is ours alone, flat, and holds plain files that the manifest lists or that `UNLISTED_FILES`
names. It is gone when the block ends, however it ends. Whether the files are what the manifest says is not
looked at here: `validation` and `signatures` do.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tarfile
import tempfile
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from steer_server.catalogue.archive import TAR_BLOCK, unpack_into
from steer_server.catalogue.intake import CHUNK_BYTES, Intake, PackageLimits
from steer_server.catalogue.manifest import UNLISTED_FILES, Manifest, read_manifest
from steer_server.catalogue.threads import Stop, in_thread, on_disk
from steer_server.errors import CatalogueError, without_path

MAX_UNLISTED_BYTES = 2**20
"""Cards and recipes are texts."""
DEFAULT_LIMITS = PackageLimits()
LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True)
class StagedPackage:
    """A folder in the staging area, and the manifest in it."""

    folder: Path
    manifest: Manifest


@asynccontextmanager
async def stage_archive(
    source: AsyncIterable[bytes] | IO[bytes],
    staging: Path,
    *,
    limits: PackageLimits = DEFAULT_LIMITS,
    label: str = "package",
) -> AsyncIterator[StagedPackage]:
    """The package in a tar, tar.gz or zip that arrives piece by piece, or lies in an open file.

    Args:
        staging: folder for temporary files; exists.
        label: what errors call the package until its manifest is read.

    Raises: CatalogueError with one reason for each thing that a package must not be; see `archive`, `intake`
        and `read_package`. archive_too_large: more was sent than allowed.
    """
    async with _work_area(staging, label) as (area, folder):
        with tempfile.TemporaryFile(dir=area) as spooled:
            archive, sent_bytes = await _spooled(source, spooled, limits, label)

            def unpack(stop: Stop) -> Manifest:
                unpack_into(Intake(folder, label, limits, stop, sent_bytes), archive)
                return read_package(folder)

            manifest = await on_disk(label, unpack)
        yield StagedPackage(folder, manifest)


@asynccontextmanager
async def stage_folder(
    source: Path, root: Path, staging: Path, *, limits: PackageLimits = DEFAULT_LIMITS
) -> AsyncIterator[StagedPackage]:
    """A copy of a folder on this machine.

    Args:
        root: the real path of `source` must lie below the real path of this folder.

    Raises: CatalogueError: outside_root, not_a_folder, symlink, special_file, nested_folder,
        folder_unreadable, and as `stage_archive`.
    """
    label = source.name if LABEL.fullmatch(source.name) else "package"
    # Answers show it: where the root is on this machine is nobody's business.
    place = ascii(str(source.relative_to(root)) if source.is_relative_to(root) else source.name)

    def copy(folder: Path, stop: Stop) -> Manifest:
        try:
            _copy_folder(_below(source, root, place, label), place, Intake(folder, label, limits, stop))
        except PermissionError as error:
            name = Path(str(error.filename)).name
            raise CatalogueError(label, "folder_unreadable", f"{name!a}: not permitted") from error
        return read_package(folder)

    async with _work_area(staging, label) as (_, folder):
        yield StagedPackage(folder, await on_disk(label, partial(copy, folder)))


def read_package(folder: Path) -> Manifest:
    """The manifest of a folder that holds nothing else than a package. Blocking.

    Raises: CatalogueError: unexpected_file, file_missing, file_too_large, symlink, special_file, and what
        `read_manifest` raises.
    """
    manifest = read_manifest(folder)
    listed = {entry.path for entry in manifest.files}
    found = set()
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_file():
            raise CatalogueError(manifest.name, "special_file", f"{path.name!a} is no plain file")
        if path.name not in listed | UNLISTED_FILES:
            raise CatalogueError(
                manifest.name,
                "unexpected_file",
                f"{path.name!a} is neither listed in the manifest nor one of {sorted(UNLISTED_FILES)}",
            )
        if path.name not in listed and path.stat().st_size > MAX_UNLISTED_BYTES:
            raise CatalogueError(
                manifest.name, "file_too_large", f"{path.name}: over {MAX_UNLISTED_BYTES} bytes"
            )
        found.add(path.name)
    if missing := listed - found:
        raise CatalogueError(manifest.name, "file_missing", f"{min(missing)} is listed and not there")
    return manifest


def pack(folder: Path) -> Iterator[bytes]:
    """A tar.gz of a package, piece by piece; the same bytes for the same files. Blocking.

    Raises: CatalogueError as `read_package`, before the first piece.
    """
    read_package(folder)
    return _compressed(_tar(folder))


def _tar(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            info = tarfile.TarInfo(path.name)
            info.size = os.fstat(file.fileno()).st_size
            yield info.tobuf(tarfile.USTAR_FORMAT)
            yield from iter(partial(file.read, CHUNK_BYTES), b"")
            yield bytes(-info.size % TAR_BLOCK)
    yield bytes(2 * TAR_BLOCK)


def _compressed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    gzip = zlib.compressobj(level=3, wbits=31)
    for piece in pieces:
        if compressed := gzip.compress(piece):
            yield compressed
    yield gzip.flush()


@asynccontextmanager
async def _work_area(staging: Path, label: str) -> AsyncIterator[tuple[Path, Path]]:
    """A fresh folder, and an empty one in it; both are removed when the block ends, cancelled or not."""
    try:
        # Not in a thread: cancelled, it would leave a folder that nobody knows.
        area = Path(tempfile.mkdtemp(dir=staging, prefix="package-"))
    except OSError as error:
        raise CatalogueError(label, "storage_failed", without_path(error)) from error
    try:
        folder = area / (label if LABEL.fullmatch(label) else "package")
        folder.mkdir()
        yield area, folder
    finally:
        await in_thread(lambda _: shutil.rmtree(area, ignore_errors=True))


async def _spooled(
    source: AsyncIterable[bytes] | IO[bytes], spooled: IO[bytes], limits: PackageLimits, label: str
) -> tuple[IO[bytes], int]:
    """The archive as a file that can be searched, and its size."""
    too_large = CatalogueError(label, "archive_too_large", f"over {limits.compressed_bytes} bytes")
    if not isinstance(source, AsyncIterable):
        size = source.seek(0, os.SEEK_END)
        if size > limits.compressed_bytes:
            raise too_large
        return source, size
    size, held = 0, bytearray()

    async def write() -> None:
        await on_disk(label, lambda _: spooled.write(held))
        held.clear()

    async for piece in source:
        size += len(piece)
        if size > limits.compressed_bytes:
            raise too_large
        held += piece
        if len(held) >= CHUNK_BYTES:
            await write()
    await write()
    return spooled, size


def _below(source: Path, root: Path, place: str, label: str) -> Path:
    try:
        real, real_root = source.resolve(), root.resolve()
    except RuntimeError as error:
        raise CatalogueError(label, "not_a_folder", f"{place}: links in a circle") from error
    if real == real_root or not real.is_relative_to(real_root):
        raise CatalogueError(label, "outside_root", f"{place} is not below the allowed folder")
    return real


def _copy_folder(source: Path, place: str, intake: Intake) -> None:
    """Opens every file relative to the folder it was seen in, and follows no link, whatever is renamed."""
    try:
        folder = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise intake.refuse("not_a_folder", f"{place} is no folder") from error
    try:
        for name in sorted(os.listdir(folder)):
            try:
                # A named pipe must not keep us waiting.
                file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise intake.refuse("symlink", ascii(name)) from error
                if error.errno == errno.ENXIO:
                    raise intake.refuse("special_file", f"{name!a} is a socket") from error
                raise
            try:
                mode = os.fstat(file).st_mode
                if stat.S_ISDIR(mode):
                    raise intake.refuse("nested_folder", f"{name!a}: adapter folders are flat")
                if not stat.S_ISREG(mode):
                    raise intake.refuse("special_file", f"{name!a}: mode {mode:o}")
                intake.write(intake.name_of(name), iter(partial(os.read, file, CHUNK_BYTES), b""))
            finally:
                os.close(file)
        intake.finish()
    finally:
        os.close(folder)
