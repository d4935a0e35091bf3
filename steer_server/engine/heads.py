"""Which reward heads are loaded, and for how long: a head stays while any request scores with it.

Heads are small and take no bank slot, so nobody waits for one. The least recently used are dropped when there
are more than `max_loaded`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from steer_server.catalogue.snapshot import LoadedRewardHead
from steer_server.engine.base import Engine

MAX_LOADED = 256
"""At a hidden size of 4096, these take 4 MiB."""


class LoadedHeads:
    """The heads of one engine. All calls come from one event loop."""

    def __init__(self, engine: Engine, max_loaded: int = MAX_LOADED) -> None:
        self.engine, self._max_loaded = engine, max_loaded
        self._loaded: dict[str, None] = {}
        """Digests, least recently used first."""
        self._num_users: Counter[str] = Counter()
        self._given_back = asyncio.Condition()
        self._changing = asyncio.Lock()
        self._changes: set[asyncio.Task[None]] = set()

    @property
    def loaded(self) -> frozenset[str]:
        """Digests."""
        return frozenset(self._loaded)

    @asynccontextmanager
    async def hold(self, heads: Sequence[LoadedRewardHead]) -> AsyncIterator[None]:
        """Has these versions loaded until the block ends, whatever is activated or removed meanwhile.

        Raises: EngineError when one cannot be loaded.
        """
        digests = [head.digest for head in heads]
        self._num_users.update(digests)
        try:
            if self._loaded.keys() >= set(digests):
                self._note_use(digests)
            else:
                # Shielded: a caller that goes away must not leave the engine half way through a change.
                await asyncio.shield(self._start(heads))
            yield
        finally:
            await self._give_back(digests)

    async def evict(self, digest: str) -> None:
        """Drops a version when no request scores with it, or has it loaded, any more. Nothing must ask for it
        by then.

        Raises: EngineError.
        """
        while digest in self._loaded or self._num_users[digest]:
            async with self._given_back:
                await self._given_back.wait_for(lambda: not self._num_users[digest])
            async with self._changing:
                await self._drop(digest)

    def _start(self, heads: Sequence[LoadedRewardHead]) -> asyncio.Task[None]:
        # The load is a user itself: whoever evicts waits for it when its caller has gone away.
        self._num_users.update(head.digest for head in heads)
        task = asyncio.create_task(self._load(heads))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        # Whoever waits for it sees the error; when nobody does any more, it is not worth a warning.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _load(self, heads: Sequence[LoadedRewardHead]) -> None:
        digests = [head.digest for head in heads]
        try:
            async with self._changing:
                for head in heads:
                    if head.digest not in self._loaded:
                        await self.engine.load_head(head)
                        self._loaded[head.digest] = None
                self._note_use(digests)
                for digest in list(self._loaded):
                    if len(self._loaded) > self._max_loaded:
                        await self._drop(digest)
        finally:
            await self._give_back(digests)

    async def _give_back(self, digests: Sequence[str]) -> None:
        self._num_users.subtract(digests)
        self._num_users += Counter()  # forgets those that nobody uses
        async with self._given_back:
            self._given_back.notify_all()

    def _note_use(self, digests: Sequence[str]) -> None:
        for digest in digests:
            del self._loaded[digest]
            self._loaded[digest] = None

    async def _drop(self, digest: str) -> None:
        """Unless somebody uses it, as may be again by now."""
        if digest in self._loaded and not self._num_users[digest]:
            del self._loaded[digest]
            await self.engine.drop_head(digest)
