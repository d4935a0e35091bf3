"""Which requests run, and with which adapters, so that the server can end all or those of one adapter."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Coroutine, Iterable
from typing import Any, Protocol, TypeVar

from steer_server.catalogue.lifecycle import ABORT
from steer_server.catalogue.records import CatalogueRecord
from steer_server.catalogue.states import State
from steer_server.errors import AbortedError, SteerError

_Result = TypeVar("_Result")


class Abortable(Protocol):
    """A running request."""

    def abort(self, error: SteerError) -> None:
        """Ends it: its client gets this error. Returns at once."""


class _Part:
    """Work of a request that is not in the hands of the engine's own handler."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.aborted: SteerError | None = None

    def abort(self, error: SteerError) -> None:
        self.aborted = error
        self.task.cancel()


class RunningRequests:
    """All of one server, by the digests of their adapters. All calls come from one event loop."""

    def __init__(self) -> None:
        self._by_digest: dict[str, set[Abortable]] = defaultdict(set)
        self._all: set[Abortable] = set()
        self._barred: dict[str, SteerError] = {}
        """Digest -> why its requests are ended."""
        self._end: SteerError | None = None
        """Why every request is ended."""

    def add(self, request: Abortable, digests: Iterable[str]) -> None:
        """A request that was planned before its adapter was barred is ended here, as is the next step of one
        that went on when all were ended."""
        self._all.add(request)
        if self._end is not None:
            request.abort(self._end)
        for digest in digests:
            self._by_digest[digest].add(request)
            if digest in self._barred:
                request.abort(self._barred[digest])

    def remove(self, request: Abortable, digests: Iterable[str]) -> None:
        """May be called more than once."""
        self._all.discard(request)
        for digest in digests:
            self._by_digest[digest].discard(request)
            if not self._by_digest[digest]:
                del self._by_digest[digest]

    async def result_of(self, work: Coroutine[Any, Any, _Result], digests: Collection[str]) -> _Result:
        """What `work` returns, a part of a request that uses these; it ends when the server ends the request.

        Raises: SteerError then, and what `work` raises.
        """
        task = asyncio.create_task(work)
        part = _Part(task)
        self.add(part, digests)
        try:
            return await task
        except asyncio.CancelledError:
            if part.aborted is not None:
                raise part.aborted from None
            raise
        finally:
            self.remove(part, digests)

    def on_sync(self, record: CatalogueRecord) -> None:
        """Ends the requests of versions whose quarantine says so; for `Replica.on_sync`."""
        self._barred = {
            digest: AbortedError(f"{version.title} was quarantined while it answered.")
            for digest, version in record.versions.items()
            if (version.state, version.reason) == (State.QUARANTINED, ABORT)
        }
        for digest, error in self._barred.items():
            for request in list(self._by_digest.get(digest, ())):
                request.abort(error)

    def end_all(self, error: SteerError) -> None:
        """Ends every request, and whatever one of them begins from now on."""
        self._end = error
        for request in list(self._all):
            request.abort(error)
