"""The header of a safetensors file, read and checked before any library maps the file.

    8 bytes n, little endian | n bytes of JSON: name -> {dtype, shape, data_offsets} | the tensors' bytes

The tensors must fill the rest of the file exactly, one after another, so that a name has one meaning for
every reader and nothing hides between them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steer_server.errors import CatalogueError

DTYPE_BYTES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
METADATA = "__metadata__"
LARGEST_DIMENSION = 2**40
PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
"""Of pickle protocols 2 to 5, and of the zip that torch.save writes."""


@dataclass(frozen=True)
class TensorInfo:
    """What the header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    """Of its bytes, counted from the end of the header."""
    end: int


def read_tensor_header(path: Path, adapter: str, max_header_bytes: int) -> dict[str, TensorInfo]:
    """All tensors of a file by name, without their contents.

    Args:
        adapter: whom errors are about.
        max_header_bytes: what the expected tensors need at most; a longer header is not read.

    Raises: CatalogueError: pickle, weights_truncated, header_too_large, header_invalid, duplicate_tensor,
        wrong_dtype, bad_offsets; the tensor's name is in the detail.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start, brace = file.read(8), file.read(1)
        length = int.from_bytes(start, "little")
        # A header of 640 bytes begins like a pickle; its ninth byte tells.
        if start.startswith(PICKLE_STARTS) and brace != b"{":
            raise CatalogueError(adapter, "pickle", f"{path.name} is a pickle, whatever its name says")
        if len(start) < 8:
            raise CatalogueError(adapter, "weights_truncated", f"{path.name}: {size} bytes")
        if length > max_header_bytes:
            raise CatalogueError(
                adapter,
                "header_too_large",
                f"{path.name}: a header of {length} bytes, this model needs under {max_header_bytes}",
            )
        if 8 + length > size:
            raise CatalogueError(
                adapter, "weights_truncated", f"{path.name}: a header of {length} bytes in {size}"
            )
        file.seek(8)
        document = parse_json(file.read(length), adapter, path.name, "header_invalid", "duplicate_tensor")
    metadata = document.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CatalogueError(adapter, "header_invalid", f"{path.name}: {METADATA} holds no texts")
    tensors = {name: _tensor_info(entry, name, adapter) for name, entry in document.items()}
    _check_layout(tensors, size - 8 - length, adapter, path.name)
    return tensors


def parse_json(
    content: bytes, adapter: str, file_name: str, reason: str, duplicate_reason: str = ""
) -> dict[str, Any]:
    """A JSON object that means the same to every reader: no key twice, no NaN or Infinity.

    Raises: CatalogueError with the reasons given.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise CatalogueError(
                adapter, duplicate_reason or reason, f"{file_name}: {twice[:200]!a} is there twice"
            )
        return found

    def refuse_constant(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    try:
        document = json.loads(
            content.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise CatalogueError(adapter, reason, f"{file_name}: {error}"[:300]) from error
    if not isinstance(document, dict):
        raise CatalogueError(adapter, reason, f"{file_name}: not an object")
    return document


def shown(name: str) -> str:
    """A tensor's name as it may be printed: somebody else chose it."""
    return name if name.isprintable() and len(name) <= 200 else ascii(name[:200])


def _tensor_info(entry: Any, name: str, adapter: str) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CatalogueError(adapter, "header_invalid", f"{shown(name)}: needs dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise CatalogueError(adapter, "wrong_dtype", f"{shown(name)}: {str(dtype)[:40]!a}")
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(
            type(number) is int and 0 <= number < LARGEST_DIMENSION for number in numbers
        ):
            raise CatalogueError(adapter, "header_invalid", f"{shown(name)}: shape or offsets are no sizes")
    if len(offsets) != 2 or len(shape) > 8:
        raise CatalogueError(adapter, "header_invalid", f"{shown(name)}: shape or offsets of a wrong length")
    return TensorInfo(dtype, tuple(shape), offsets[0], offsets[1])


def _check_layout(tensors: Mapping[str, TensorInfo], num_bytes: int, adapter: str, file_name: str) -> None:
    position = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.begin != position:
            what = "overlaps the one before" if info.begin < position else "leaves a gap before it"
            raise CatalogueError(adapter, "bad_offsets", f"{shown(name)} {what}, at byte {info.begin}")
        needed = math.prod(info.shape) * DTYPE_BYTES[info.dtype]
        if info.end - info.begin != needed:
            raise CatalogueError(
                adapter,
                "bad_offsets",
                f"{shown(name)}: {info.end - info.begin} bytes, not {needed}",
            )
        position = info.end
        if position > num_bytes:
            raise CatalogueError(
                adapter,
                "weights_truncated",
                f"{file_name}: {shown(name)} ends at {position} of {num_bytes}",
            )
    if position != num_bytes:
        raise CatalogueError(
            adapter, "bad_offsets", f"{file_name}: {num_bytes - position} bytes behind the last tensor"
        )
