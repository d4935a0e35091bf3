"""Writes the files of a package into a folder and counts what it writes, whatever the source says of itself.

A package is flat: plain files with plain names. Every refusal is a CatalogueError with its own reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from steer_server.catalogue.threads import Stop
from steer_server.errors import CatalogueError

CHUNK_BYTES = 256 * 1024
RATIO_FREE_BYTES = 4 * 2**20
"""The compression ratio is not looked at below this size: short texts compress well."""

FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")

PICKLE_SUFFIXES = frozenset(
    {".bin", ".ckpt", ".dill", ".joblib", ".mar", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pt2", ".pth"}
)
"""Formats whose readers run code, or may."""


@dataclass(frozen=True)
class PackageLimits:
    """How much a package may be."""

    compressed_bytes: int = 2 * 2**30
    """The archive as it is sent."""
    file_bytes: int = 4 * 2**30
    unpacked_bytes: int = 4 * 2**30
    """All files together."""
    num_files: int = 64
    ratio: int = 100
    """Unpacked over sent bytes. Weights compress by less than 2."""


class Intake:
    """Takes the files of one package, one after another.

    Args:
        folder: where they go; exists and is empty.
        label: what errors call the package.
        sent_bytes: size of the archive, for the compression ratio; None where nothing is compressed.
    """

    def __init__(
        self, folder: Path, label: str, limits: PackageLimits, stop: Stop, sent_bytes: int | None = None
    ) -> None:
        self.folder, self.label, self.limits, self.stop = folder, label, limits, stop
        self.sent_bytes = sent_bytes
        self.num_bytes = 0
        self._names: dict[str, str] = {}
        self._top: str | None = None
        self._folders: set[str] = set()

    def refuse(self, reason: str, detail: str) -> CatalogueError:
        return CatalogueError(self.label, reason, detail)

    def see_folder(self, path: str) -> None:
        """A folder entry: only the one around all files may occur.

        Raises: CatalogueError absolute_path, path_escapes, nested_folder.
        """
        parts = self._parts(path)
        if len(parts) > 1:
            raise self.refuse("nested_folder", f"{_shown(path)}: adapter folders are flat")
        self._folders.update(parts)

    def name_of(self, path: str) -> str:
        """The plain name that a member goes by, without the one folder that may be around all of them.

        Raises: CatalogueError absolute_path, path_escapes, nested_folder, bad_file_name, pickle,
            duplicate_file, case_conflict, too_many_files.
        """
        parts = self._parts(path)
        if not parts:
            raise self.refuse("bad_file_name", f"{_shown(path)} names no file")
        top = parts[0] if len(parts) == 2 else ""
        if len(parts) > 2 or (self._top is not None and top != self._top):
            raise self.refuse(
                "nested_folder", f"{_shown(path)}: adapter folders are flat, with at most one folder around"
            )
        self._top, name = top, parts[-1]
        if not FILE_NAME.fullmatch(name):
            raise self.refuse("bad_file_name", f"{_shown(path)}: letters, digits, `_`, `-` and `.` only")
        if PurePosixPath(name.lower()).suffix in PICKLE_SUFFIXES:
            raise self.refuse("pickle", f"{name}: only safetensors may hold weights")
        other = self._names.get(name.lower())
        if other == name:
            raise self.refuse("duplicate_file", f"{name} occurs twice")
        if other is not None:
            raise self.refuse("case_conflict", f"{other} and {name} differ only by case")
        if len(self._names) >= self.limits.num_files:
            raise self.refuse("too_many_files", f"more than {self.limits.num_files} files")
        self._names[name.lower()] = name
        return name

    def write(self, name: str, pieces: Iterable[bytes]) -> int:
        """Writes one file. Returns its size.

        Raises: CatalogueError file_too_large, package_too_large, compression_ratio.
        """
        num_bytes = 0
        with (self.folder / name).open("xb") as file:
            for piece in pieces:
                self.stop.check()
                num_bytes += len(piece)
                if num_bytes > self.limits.file_bytes:
                    raise self.refuse("file_too_large", f"{name}: over {self.limits.file_bytes} bytes")
                self.count(len(piece), name)
                file.write(piece)
        return num_bytes

    def count(self, num_bytes: int, what: str) -> None:
        """Adds to the total. Raises: CatalogueError package_too_large, compression_ratio."""
        self.num_bytes += num_bytes
        if self.num_bytes > self.limits.unpacked_bytes:
            raise self.refuse("package_too_large", f"{what}: over {self.limits.unpacked_bytes} bytes in all")
        if self.sent_bytes is None or self.num_bytes <= RATIO_FREE_BYTES:
            return
        if self.num_bytes > self.limits.ratio * self.sent_bytes:
            raise self.refuse(
                "compression_ratio", f"{what}: unpacks to over {self.limits.ratio} times what was sent"
            )

    def finish(self) -> None:
        """Raises: CatalogueError when there was nothing (empty_package) or a folder beside the files."""
        if not self._names:
            raise self.refuse("empty_package", "no files")
        if foreign := self._folders - {self._top}:
            raise self.refuse("nested_folder", f"{_shown(min(foreign))}: adapter folders are flat")

    def _parts(self, path: str) -> list[str]:
        if path.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[/\\]", path):
            raise self.refuse("absolute_path", _shown(path))
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts or ".." in path.split("\\"):
            raise self.refuse("path_escapes", f"{_shown(path)} points outside")
        return parts


def _shown(path: str) -> str:
    """A path from outside, fit for a log: escaped and short."""
    return ascii(path if len(path) <= 120 else path[:117] + "...")
