"""Unpacks a tar, tar.gz or zip that nobody vouches for.

The standard library parses the headers; this module never lets it read more than a header needs, and counts
the contents as they are copied, so that no size that a header states is believed. Nothing is ever extracted
by path.
"""

from __future__ import annotations

import gzip
import os
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from typing import IO, Any

from steer_server.catalogue.intake import CHUNK_BYTES, Intake

MAX_TAR_HEADER_READ = 4096
"""Longest single header. tarfile's patterns for pax records take quadratic time."""
MAX_TAR_HEADERS = 512 * 1024
"""All headers together. tarfile keeps what some of them list in memory."""
MAX_ZIP_READ = 128 * 1024
"""The end record with the longest comment has 64 KiB; the central directory of a few files less."""
TAR_BLOCK = 512

PARSE_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    LookupError,
    OverflowError,
    RecursionError,
    NotImplementedError,
)
"""What the standard library raises over archives that are not well formed."""


def unpack_into(intake: Intake, archive: IO[bytes]) -> None:
    """Writes the archive's files through `intake`.

    Raises: CatalogueError: archive_unknown_format, archive_truncated, archive_corrupt, archive_encrypted,
        archive_unsupported, symlink, hard_link, special_file, and what Intake raises.
    """
    archive.seek(0)
    start = archive.read(TAR_BLOCK)
    archive.seek(0)
    try:
        if start.startswith(b"\x1f\x8b"):
            _unpack_gzip(intake, archive)
        elif start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            _unpack_zip(intake, archive)
        elif start[257:262] == b"ustar":
            _unpack_tar(intake, archive)
        else:
            raise intake.refuse("archive_unknown_format", "neither a tar, a tar.gz nor a zip")
    except PARSE_ERRORS as error:
        raise intake.refuse("archive_corrupt", f"{type(error).__name__}: {error}"[:200]) from error
    intake.finish()


class _Bounded:
    """The archive as the parsers see it: no read is long, and a tar is read forwards only."""

    def __init__(self, archive: IO[bytes], intake: Intake, max_read: int, max_total: int | None) -> None:
        self._archive, self._intake, self._max_read, self._max_total = archive, intake, max_read, max_total
        self._position = self._furthest = self._total = 0
        self._size = archive.seek(0, os.SEEK_END)

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        # tarfile reads the byte before each header to see that it is there. Anything further back is a
        # negative size in a pax record, with which older versions of it go round for ever.
        if position < 0 or (self._max_total is not None and position < self._furthest - 1):
            raise ValueError(f"a header points back to byte {position}")
        self._position = position
        return position

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._position)
        wanted = left if size < 0 else min(size, left)
        self._total += wanted
        if wanted > self._max_read or (self._max_total is not None and self._total > self._max_total):
            raise ValueError(f"headers of over {min(wanted, self._total)} bytes")
        self._intake.stop.check()
        self._archive.seek(self._position)
        content = self._archive.read(wanted)
        self._position += len(content)
        self._furthest = max(self._furthest, self._position)
        return content


def _unpack_gzip(intake: Intake, archive: IO[bytes]) -> None:
    """To a plain tar first, because tarfile seeks, which starts a gzip over."""
    with tempfile.TemporaryFile(dir=intake.folder.parent) as plain:
        try:
            with gzip.GzipFile(fileobj=archive, mode="rb") as unzipped:
                while piece := unzipped.read(CHUNK_BYTES):
                    intake.stop.check()
                    intake.count(len(piece), "archive")
                    plain.write(piece)
        except EOFError as error:
            raise intake.refuse("archive_truncated", "the gzip stream ends early") from error
        except gzip.BadGzipFile as error:
            raise intake.refuse("archive_corrupt", str(error)) from error
        intake.num_bytes = 0  # the files are counted anew, as they are written
        plain.seek(257)
        if plain.read(5) != b"ustar":
            raise intake.refuse("archive_unknown_format", "the gzip holds no tar")
        _unpack_tar(intake, plain)


def _unpack_tar(intake: Intake, archive: IO[bytes]) -> None:
    size = archive.seek(0, os.SEEK_END)
    headers: Any = _Bounded(archive, intake, MAX_TAR_HEADER_READ, MAX_TAR_HEADERS)
    with tarfile.open(fileobj=headers, mode="r:") as tar:
        for member in _members(intake, tar, archive, size):
            if member.isdir():
                intake.see_folder(member.name)
                continue
            _refuse_special(intake, member)
            name = intake.name_of(member.name)
            if member.size < 0:
                raise intake.refuse("archive_corrupt", f"{name}: {member.size} bytes")
            if member.offset_data + member.size > size:
                raise intake.refuse("archive_truncated", f"{name}: {member.size} bytes are not all there")
            intake.write(name, _slice(archive, member.offset_data, member.size))


def _members(
    intake: Intake, tar: tarfile.TarFile, archive: IO[bytes], size: int
) -> Iterator[tarfile.TarInfo]:
    """The members in order, as far as the end mark. tarfile itself also stops, silently, at rubbish."""
    num_members = 0
    try:
        while (member := tar.next()) is not None:
            num_members += 1
            if num_members > 2 * intake.limits.num_files:
                raise intake.refuse("too_many_files", f"more than {intake.limits.num_files} members")
            yield member
    except tarfile.ReadError as error:
        if tar.offset <= size:
            raise
        raise intake.refuse("archive_truncated", str(error)) from error
    if tar.offset + TAR_BLOCK > size:
        raise intake.refuse("archive_truncated", "the end mark is missing")
    if b"".join(_slice(archive, tar.offset, TAR_BLOCK)) != bytes(TAR_BLOCK):
        raise intake.refuse("archive_corrupt", f"no header at byte {tar.offset}")


def _refuse_special(intake: Intake, member: tarfile.TarInfo) -> None:
    shown = ascii(member.name[:120])
    if member.issym():
        raise intake.refuse("symlink", f"{shown} points to {member.linkname[:120]!a}")
    if member.islnk():
        raise intake.refuse("hard_link", f"{shown} is linked to {member.linkname[:120]!a}")
    if not member.isreg() or member.issparse():
        raise intake.refuse("special_file", f"{shown}: tar type {member.type.decode('latin-1')!a}")


def _slice(archive: IO[bytes], start: int, num_bytes: int) -> Iterator[bytes]:
    while num_bytes > 0:
        archive.seek(start)
        piece = archive.read(min(CHUNK_BYTES, num_bytes))
        if not piece:
            raise EOFError("the archive ends early")
        start, num_bytes = start + len(piece), num_bytes - len(piece)
        yield piece


def _unpack_zip(intake: Intake, archive: IO[bytes]) -> None:
    bounded: Any = _Bounded(archive, intake, MAX_ZIP_READ, None)
    try:
        opened = zipfile.ZipFile(bounded)
    except zipfile.BadZipFile as error:
        raise intake.refuse("archive_truncated", f"the zip's directory is not there: {error}") from error
    with opened:
        entries = opened.infolist()
        if len(entries) > 2 * intake.limits.num_files:
            raise intake.refuse("too_many_files", f"more than {intake.limits.num_files} files")
        for entry in entries:
            # `filename` ends at a NUL byte; `orig_filename` is what is really there.
            path, mode = entry.orig_filename, entry.external_attr >> 16
            shown = ascii(path[:120])
            if entry.flag_bits & (0x1 | 0x40 | 0x2000):
                raise intake.refuse("archive_encrypted", shown)
            if stat.S_ISLNK(mode):
                raise intake.refuse("symlink", shown)
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise intake.refuse("special_file", f"{shown}: mode {mode:o}")
            if path.endswith("/") or stat.S_ISDIR(mode):
                intake.see_folder(path)
                continue
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # zipfile unpacks the others piece by piece of what is packed, each however large.
                raise intake.refuse("archive_unsupported", f"{shown}: neither stored nor deflated")
            name = intake.name_of(path)
            with opened.open(entry) as member:
                intake.write(name, iter(partial(member.read, MAX_ZIP_READ // 2), b""))
