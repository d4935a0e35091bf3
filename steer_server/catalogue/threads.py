"""Blocking file work in a thread, which ends before its caller goes on, cancelled or not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from steer_server.errors import CatalogueError, without_path

T = TypeVar("T")


class StoppedError(Exception):
    """Raised inside the thread, by `Stop.check`, when its caller was cancelled. Never leaves `in_thread`."""


class Stop:
    """What long work asks from time to time."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def check(self) -> None:
        """Raises: StoppedError when nobody waits for the work any more."""
        if self._event.is_set():
            raise StoppedError


async def in_thread(work: Callable[[Stop], T]) -> T:
    """What `work` returns or raises.

    A thread cannot be cancelled. When the caller is, the work is told to stop, and CancelledError is raised
    only once it has: so the caller may remove the files that the work wrote.
    """
    stop = Stop()
    task = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                continue  # cancelled once more; the thread still writes
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it as forgotten
        raise


async def on_disk(label: str, work: Callable[[Stop], T]) -> T:
    """As `in_thread`, for work on our own files.

    Raises: CatalogueError storage_failed when the disk is full, read-only, gone...
    """
    try:
        return await in_thread(work)
    except OSError as error:
        raise CatalogueError(label, "storage_failed", without_path(error)) from error
