"""A server that was told to stop: it refuses what is new, and finishes what is under way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from steer_server.api.running import RunningRequests
from steer_server.errors import NotReadyError

logger = logging.getLogger("steer_server")

END_SECONDS = 5.0
"""For the requests that are ended with an error to tell their clients so."""


class Drain:
    """Counts the requests under way until the server is told to stop. All calls come from one event loop."""

    def __init__(self, running: RunningRequests) -> None:
        self.is_on = False
        self._running = running
        self._num_under_way = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    def check(self) -> None:
        """Raises: NotReadyError once the server was told to stop."""
        if self.is_on:
            raise NotReadyError("The server is stopping. Please try again: another one may answer.")

    @contextmanager
    def admit(self) -> Iterator[None]:
        """A request is under way until the block ends. Raises: as `check`."""
        self.check()
        self._num_under_way += 1
        self._is_idle.clear()
        try:
            yield
        finally:
            self._num_under_way -= 1
            if not self._num_under_way:
                self._is_idle.set()

    async def finish(self, seconds: float) -> None:
        """Admits nobody any more, and returns when the last request has ended. Those that the engine or an
        upstream still works on after so long end with an error. Returns a little later at most, whatever a
        client or a route of vLLM's does; who is then left is cut."""
        self.is_on = True
        logger.info("stopping: %d requests under way have %g s to finish", self._num_under_way, seconds)
        if await self._is_idle_within(seconds):
            return
        logger.warning("stopping: %d requests have not finished, and are ended", self._num_under_way)
        self._running.end_all(NotReadyError("The server was stopped before this request was answered."))
        if not await self._is_idle_within(END_SECONDS):
            logger.warning("stopping: %d requests did not end", self._num_under_way)

    async def _is_idle_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._is_idle.wait()
        except TimeoutError:
            return False
        return True
