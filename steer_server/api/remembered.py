"""Answers of the database that requests need at once: remembered, checked anew after a while, and believed as
long as the database is away. What is served must not wait for a database."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from steer_server.errors import DatabaseError

FRESH_SECONDS = 5.0
"""How long an answer is believed without asking, when no revision says otherwise."""

PATIENCE_SECONDS = 0.5
"""How long a request that has an older answer waits for a new one."""

MAX_ENTRIES = 10_000

_Value = TypeVar("_Value")


class Remembered(Generic[_Value]):
    """None is not remembered: what is made a moment later is found, and guesses fill no memory."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[str, tuple[_Value, float]] = {}
        self._asking: dict[str, asyncio.Task[_Value]] = {}
        self._fresh_since = -math.inf

    async def get(self, name: str, ask: Callable[[], Awaitable[_Value]]) -> _Value:
        """The answer for `name`. Requests that want the same one ask once.

        Raises: DatabaseError when there is none and the database is away.
        """
        entry = self._entries.get(name)
        if entry is not None and entry[1] > max(self._clock() - FRESH_SECONDS, self._fresh_since):
            return entry[0]
        task = self._asking.get(name)
        if task is None:
            task = self._asking[name] = asyncio.create_task(self._ask(name, ask))
            task.add_done_callback(self._asked)
        if entry is None:
            # Shielded: others may wait for it too.
            return await asyncio.shield(task)
        await asyncio.wait({task}, timeout=PATIENCE_SECONDS)
        if not task.done() or isinstance(task.exception(), DatabaseError):
            return entry[0]
        return task.result()

    def expire(self) -> None:
        """From now on every answer is asked for anew."""
        self._fresh_since = self._clock()
        # Those on their way may have been read before what we are told of now.
        self._asking.clear()

    async def _ask(self, name: str, ask: Callable[[], Awaitable[_Value]]) -> _Value:
        # The time before asking: a revision that comes meanwhile makes this answer old.
        asked = self._clock()
        task = asyncio.current_task()
        try:
            value = await ask()
        except DatabaseError:
            if name in self._entries:
                # Not again at once.
                self._entries[name] = (self._entries[name][0], asked)
            raise
        finally:
            if self._asking.get(name) is task:
                del self._asking[name]
        known = self._entries.pop(name, None)
        if value is not None:
            newer = known is not None and known[1] > asked
            self._entries[name] = known if known is not None and newer else (value, asked)
            if len(self._entries) > MAX_ENTRIES:
                del self._entries[next(iter(self._entries))]
        return value

    @staticmethod
    def _asked(task: asyncio.Task[_Value]) -> None:
        if not task.cancelled():
            # Whoever waits for it sees the exception; when nobody does any more, nobody needs it.
            task.exception()
