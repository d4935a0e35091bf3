"""Archives that no sound program would write."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.catalogue.bench import Bench

MEGABYTES = 2**20


def tar_of(folder: Path, **options: Any) -> bytes:
    """A plain tar of whatever the folder holds, refused by nobody."""
    return tar_with(lambda tar: None, folder, **options)


def tar_with(more: Callable[[tarfile.TarFile], object], folder: Path | None = None, top: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(folder.iterdir()) if folder else []:
            tar.add(path, top + path.name)
        more(tar)
    return buffer.getvalue()


def zip_with(more: Callable[[zipfile.ZipFile], object], folder: Path | None = None, top: str = "") -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")  # names twice
        for path in sorted(folder.iterdir()) if folder else []:
            archive.write(path, top + path.name)
        more(archive)
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes = b"", **attributes: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(content))


def in_tar(*args: Any, **attributes: Any) -> Callable[[Bench], bytes]:
    """The good package as a tar with one more member."""
    return lambda bench: tar_with(lambda tar: add(tar, *args, **attributes), bench.folder)


def in_zip(name: str, content: bytes = b"x") -> Callable[[Bench], bytes]:
    return lambda bench: zip_with(lambda archive: archive.writestr(name, content), bench.folder)


def zip_symlink(bench: Bench) -> bytes:
    info = zipfile.ZipInfo("link.json")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    return zip_with(lambda archive: archive.writestr(info, "/etc/passwd"), bench.folder)


def patched_zip(local: int, central: int, value: bytes) -> Callable[[Bench], bytes]:
    """The good package as a zip, with bytes changed at an offset in its first file's two headers."""

    def make(bench: Bench) -> bytes:
        content = bytearray(zip_with(lambda archive: None, bench.folder))
        for mark, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
            start = content.index(mark) + offset
            content[start : start + len(value)] = value
        return bytes(content)

    return make


def zip_with_changed_bytes(bench: Bench) -> bytes:
    content = bytearray(zip_with(lambda z: z.writestr("x.txt", b"A" * 50, zipfile.ZIP_STORED), bench.folder))
    content[content.index(b"A" * 50)] = ord("B")
    return bytes(content)


def truncated(archive: Callable[[Bench], bytes], share: float) -> Callable[[Bench], bytes]:
    def make(bench: Bench) -> bytes:
        content = archive(bench)
        return content[: int(len(content) * share)]

    return make


def tar_gz(bench: Bench) -> bytes:
    return gzip.compress(tar_of(bench.folder), mtime=0)


def gz_with_wrong_checksum(bench: Bench) -> bytes:
    content = bytearray(tar_gz(bench))
    content[-8] ^= 1
    return bytes(content)


def tar_with_rubbish_behind_a_member(bench: Bench) -> bytes:
    content = bytearray(tar_of(bench.folder))
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        second = tar.getmembers()[1].offset
    content[second + 148 : second + 156] = b"\xff" * 8
    return bytes(content)


def tar_without_end(bench: Bench) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(content := tar_of(bench.folder))) as tar:
        last = tar.getmembers()[-1]
    return content[: last.offset_data + -(-last.size // 512) * 512]


def tar_that_overstates_a_size(bench: Bench) -> bytes:
    info = tarfile.TarInfo("big.json")
    info.size = 2**30
    return info.tobuf() + bytes(2048)


def zip_with_a_nul_in_a_name(bench: Bench) -> bytes:
    return in_zip("README.md@.sh")(bench).replace(b"README.md@", b"README.md\0")


def bomb(archive: str) -> Callable[[Bench], bytes]:
    size = 64 * MEGABYTES
    if archive == "zip":
        return lambda bench: zip_with(lambda z: z.writestr("zeros.json", bytes(size)))
    return lambda bench: gzip.compress(tar_with(lambda tar: add(tar, "zeros.json", bytes(size))), mtime=0)


def bulky(*sizes: int) -> Callable[[Bench], bytes]:
    def more(tar: tarfile.TarFile) -> None:
        for i, size in enumerate(sizes):
            add(tar, f"bulk{i}.json", os.urandom(1024) * (size // 1024))

    return lambda bench: gzip.compress(tar_with(more), mtime=0)
