"""Which requests run with which adapters, so that those of a quarantined one can be ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Protocol

from steer_server.catalogue.lifecycle import ABORT
from steer_server.catalogue.records import CatalogueRecord
from steer_server.catalogue.states import State


class Abortable(Protocol):
    """A running request."""

    def abort(self, reason: str) -> None:
        """Ends it: its client gets an error that says why. Returns at once."""


class RunningRequests:
    """All of one server, by the digests of their adapters. All calls come from one event loop."""

    def __init__(self) -> None:
        self._by_digest: dict[str, set[Abortable]] = defaultdict(set)
        self._barred: dict[str, str] = {}
        """Digest -> why its requests are ended."""

    def add(self, request: Abortable, digests: Iterable[str]) -> None:
        """A request that was planned before its adapter was barred is ended here."""
        for digest in digests:
            self._by_digest[digest].add(request)
            if digest in self._barred:
                request.abort(self._barred[digest])

    def remove(self, request: Abortable, digests: Iterable[str]) -> None:
        """May be called more than once."""
        for digest in digests:
            self._by_digest[digest].discard(request)
            if not self._by_digest[digest]:
                del self._by_digest[digest]

    def on_sync(self, record: CatalogueRecord) -> None:
        """Ends the requests of versions whose quarantine says so; for `Replica.on_sync`."""
        self._barred = {
            digest: f"{version.title} was quarantined while it answered."
            for digest, version in record.versions.items()
            if (version.state, version.reason) == (State.QUARANTINED, ABORT)
        }
        for digest, reason in self._barred.items():
            for request in list(self._by_digest.get(digest, ())):
                request.abort(reason)
