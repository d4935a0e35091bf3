"""A bounded cache whose values take work to make: requests that want the same one at the same time share it.

The least recently used goes first. The work belongs to nobody in particular: it goes on as long as anybody
waits for it, and is cancelled when the last of them has left. What fails is not kept.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

MAX_ENTRIES = 100_000

_Value = TypeVar("_Value")


@dataclass(eq=False)
class _Work(Generic[_Value]):
    task: asyncio.Task[_Value]
    num_waiting: int = 0


class SharedCache(Generic[_Value]):
    """All calls come from one event loop."""

    def __init__(
        self, max_characters: int, num_characters: Callable[[_Value], int], max_entries: int = MAX_ENTRIES
    ) -> None:
        """
        Args:
            max_characters: of all values together; 0 keeps none, and equal requests still share the work.
            num_characters: of one value.
        """
        self._max_characters, self._max_entries = max_characters, max_entries
        self._num_characters_of = num_characters
        self._entries: OrderedDict[Hashable, _Value] = OrderedDict()
        self._works: dict[Hashable, _Work[_Value]] = {}
        self.num_characters = 0

    def __len__(self) -> int:
        return len(self._entries)

    async def get(
        self, key: Hashable, make: Callable[[], Coroutine[Any, Any, _Value]]
    ) -> tuple[_Value, bool]:
        """The value, and whether it was there already.

        Raises: what `make` raises, to everybody who waits for it.
        """
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key], True
        work = self._works.get(key)
        if work is None:
            work = self._works[key] = _Work(asyncio.create_task(self._make(key, make)))
        work.num_waiting += 1
        try:
            return await asyncio.shield(work.task), False
        finally:
            work.num_waiting -= 1
            if not work.num_waiting and not work.task.done():
                # Whoever comes now begins anew: this work is lost.
                del self._works[key]
                await _cancelled(work.task)

    async def _make(self, key: Hashable, make: Callable[[], Awaitable[_Value]]) -> _Value:
        try:
            value = await make()
        finally:
            if key in self._works and self._works[key].task is asyncio.current_task():
                del self._works[key]
        self._keep(key, value)
        return value

    def _keep(self, key: Hashable, value: _Value) -> None:
        self._entries[key] = value
        self.num_characters += self._num_characters_of(value)
        while self.num_characters > self._max_characters or len(self._entries) > self._max_entries:
            _, oldest = self._entries.popitem(last=False)
            self.num_characters -= self._num_characters_of(oldest)


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])
