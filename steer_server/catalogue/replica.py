"""What this server serves: the database's active versions, as far as this engine can run them.

Whoever changes the catalogue changes the database. Every replica, the one that was asked included, then makes
itself what the database says, by `sync`: load what is missing (store, validation, probe), swap the snapshot,
let go of what is no longer served when its last request has ended. So a restart, a replica that was cut off
and a plain activation are the same code.

A version that cannot be loaded here is a problem of this replica: it is reported, tried again, and the name's
former version is served on, unless that one was quarantined or removed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

from steer_server.catalogue import views
from steer_server.catalogue.admission import Loaded
from steer_server.catalogue.database import Database
from steer_server.catalogue.follow import changes, report
from steer_server.catalogue.loader import with_loaded
from steer_server.catalogue.records import CatalogueRecord
from steer_server.catalogue.snapshot import Catalogue
from steer_server.catalogue.states import State
from steer_server.errors import CatalogueError, SteerError

RETRY_SECONDS = 5.0
"""Between two attempts at what failed, such as a version that could not be loaded here."""

Load = Callable[[str], Awaitable[Loaded]]
"""A version's digest -> the version, checked and probed on this engine. Raises: SteerError."""
Evict = Callable[[str], Coroutine[Any, Any, None]]
"""Returns when no request holds the version any more and the engine has forgotten it."""

logger = logging.getLogger("steer_server.catalogue")


class Replica:
    """The served snapshot and how it follows the database. All calls come from one event loop.

    Args:
        replica_id: this server's name in the database; another one for every process.
    """

    def __init__(
        self, database: Database, replica_id: str, load: Load, evict: Evict, *, poll_seconds: float = 1.0
    ) -> None:
        self.database, self.replica_id = database, replica_id
        self._load, self._evict, self._poll_seconds = load, evict, poll_seconds
        self._catalogue = Catalogue()
        self._record = CatalogueRecord(0, {}, {})
        self._problems: dict[str, str] = {}
        self._draining: dict[str, asyncio.Task[None]] = {}
        self._lock = asyncio.Lock()
        self._changed: set[Callable[[CatalogueRecord], None]] = set()

    @property
    def catalogue(self) -> Catalogue:
        """What requests are planned with now."""
        return self._catalogue

    @property
    def record(self) -> CatalogueRecord:
        """What the database said at the last sync."""
        return self._record

    @property
    def problems(self) -> Mapping[str, str]:
        """Digest -> why this replica does not serve an active version."""
        return MappingProxyType(self._problems)

    @property
    def draining(self) -> frozenset[str]:
        """Digests that running requests of this replica still hold though they are not served any more."""
        return frozenset(self._draining)

    def on_sync(self, listener: Callable[[CatalogueRecord], None]) -> None:
        """Calls `listener` with what the database said, after every sync."""
        self._changed.add(listener)

    async def sync(self) -> CatalogueRecord:
        """Makes this replica serve what the database says, and returns what that was.

        Raises: DatabaseError. Versions that fail to load raise nothing: see `problems`.
        """
        async with self._lock:
            record = await views.read(self.database)
            served = {one.digest: one for one in self._served()}
            loaded: list[Loaded] = []
            former: list[Loaded] = []
            problems: dict[str, str] = {}
            for digest in sorted(d for d in record.aliases.values() if d):
                try:
                    if digest not in served:
                        one = await self._load(digest)
                        served[digest] = replace(one, label=record.versions[digest].version)
                    loaded.append(served[digest])
                except SteerError as error:
                    problems[digest] = str(error)
                    logger.error("cannot serve %s: %s", record.versions[digest].title, error)
                    former += self._former(record.versions[digest].name, record)
            catalogue = replace(_fitting(loaded, former), quarantined=_quarantined(record))
            self._publish(catalogue, problems)
            self._record = record
            for listener in self._changed:
                listener(record)
            await report(self.database, self.replica_id, record.revision, problems)
            return record

    async def follow(self) -> None:
        """Syncs at every change of the database, until cancelled, and again while there are problems. What
        goes wrong otherwise is logged, and following begins anew."""
        while True:
            try:
                await self._follow()
            except Exception:
                logger.exception("catalogue: following failed; again in %g seconds", RETRY_SECONDS)
                await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self) -> None:
        async with aclosing(changes(self.database, poll_seconds=self._poll_seconds)) as revisions:
            pending = asyncio.ensure_future(anext(revisions))
            try:
                while True:
                    timeout = RETRY_SECONDS if self._problems else None
                    await asyncio.wait([pending], timeout=timeout)
                    if pending.done():
                        pending.result()
                        pending = asyncio.ensure_future(anext(revisions))
                    try:
                        await self.sync()
                    except SteerError as error:
                        logger.warning("catalogue: %s", error)
            finally:
                pending.cancel()
                await asyncio.wait([pending])

    async def drained(self, digest: str) -> None:
        """Returns when no running request of this replica holds a version that it does not serve."""
        if digest in self._draining:
            await asyncio.wait([self._draining[digest]])

    async def close(self) -> None:
        """Stops waiting for requests; slots stay as they are."""
        for task in list(self._draining.values()):
            task.cancel()
        await asyncio.gather(*self._draining.values(), return_exceptions=True)

    def _served(self) -> list[Loaded]:
        return [*self._catalogue.adapters, *self._catalogue.reward_heads.values()]

    def _former(self, name: str, record: CatalogueRecord) -> list[Loaded]:
        """The version of that name that is served now and may be served on, if there is one."""
        usable = {d for d, version in record.versions.items() if version.state is not State.QUARANTINED}
        return [one for one in self._served() if one.name == name and one.digest in usable]

    def _publish(self, catalogue: Catalogue, problems: dict[str, str]) -> None:
        before = {one.digest: one for one in self._served()}
        self._catalogue, self._problems = catalogue, problems
        after = {one.digest for one in self._served()}
        for one in self._served():
            if one.digest not in before:
                logger.info("serving %s", one.title)
        for digest in after & self._draining.keys():
            self._draining.pop(digest).cancel()
        for digest in before.keys() - after:
            logger.info("draining %s", before[digest].title)
            task = asyncio.create_task(self._evict(digest))
            self._draining[digest] = task
            task.add_done_callback(partial(self._has_drained, digest))

    def _has_drained(self, digest: str, task: asyncio.Task[None]) -> None:
        if self._draining.get(digest) is task:
            del self._draining[digest]
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s was not unloaded: %s", digest[:12], task.exception())


def _quarantined(record: CatalogueRecord) -> dict[str, str]:
    """As `Catalogue.quarantined`; an id that is served as well is found before anybody looks here."""
    titles: dict[str, str] = {}
    for version in sorted(record.versions.values(), key=lambda version: version.updated_at):
        if version.state is State.QUARANTINED:
            manifest = version.manifest
            culture = (manifest.get("culture") or {}).get("id")
            axes = [axis["id"] for axis in manifest.get("axes") or ()]
            prompter = (manifest.get("prompter") or {}).get("id")
            titles |= {one: version.title for one in (culture, *axes, manifest.get("head"), prompter) if one}
    return titles


def _fitting(loaded: list[Loaded], former: list[Loaded]) -> Catalogue:
    """All of `loaded`, and what fits beside it of `former`: a version that is served on for another's sake
    gives way where it claims what is claimed anew."""
    catalogue = Catalogue.of(loaded)
    for one in former:
        try:
            catalogue = with_loaded(catalogue, one)
        except CatalogueError as error:
            logger.error("not served on: %s", error)
    return catalogue
