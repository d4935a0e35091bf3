"""Server-sent events out of bytes as they come in, and OpenAI's chunks out of their data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from steer_server.upstream.cleaning import Cleaner

MAX_EVENT_BYTES = 8 * 2**20
"""An upstream that sends more without the end of an event is not sending events."""

KEEP_ALIVE = ": keep-alive\n\n"
DONE = "[DONE]"
FIELDS = ("data", "event", "id", "retry")


class EventReader:
    """Keeps what has come of an event that is not whole yet."""

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._data: list[str] = []
        self._num_bytes = 0

    def feed(self, piece: bytes) -> Iterator[str | None]:
        """The data of each event that `piece` completes; None for a comment, which keeps a connection alive.

        Raises: ValueError for what is no event stream.
        """
        self._num_bytes += len(piece)
        *ends, rest = piece.split(b"\n")
        for end in ends:
            line = b"".join([*self._line, end]).removesuffix(b"\r").decode()
            self._line = []
            yield from self._read(line)
        self._line.append(rest)
        if self._num_bytes > MAX_EVENT_BYTES:
            raise ValueError("an event without end")

    def _read(self, line: str) -> Iterator[str | None]:
        name, _, value = line.partition(":")
        if not line:
            if self._data:
                yield "\n".join(self._data)
            self._data, self._num_bytes = [], 0
        elif not name:
            yield None
        elif name not in FIELDS:
            raise ValueError("not a line of an event stream")
        elif name == "data":
            self._data.append(value.removeprefix(" "))


def read_chunk(data: str, cleaner: Cleaner) -> dict[str, Any]:
    """One chunk of an OpenAI stream, or an error in its place. Raises: ValueError for anything else."""
    chunk = cleaner.document(data)
    if "error" not in chunk and not is_answer(chunk):
        raise ValueError("no choices")
    return chunk


def is_answer(document: dict[str, Any]) -> bool:
    """Whether it has the shape that OpenAI's clients read: choices, with objects for what was said."""
    choices = document.get("choices")
    return isinstance(choices, list) and all(
        isinstance(choice, dict)
        and all(isinstance(choice.get(part, {}), dict) for part in ("message", "delta"))
        for choice in choices
    )


def event(document: dict[str, Any]) -> str:
    """The event that carries it."""
    return f"data: {json.dumps(document)}\n\n"
