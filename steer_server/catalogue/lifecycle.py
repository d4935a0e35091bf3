"""What operators do with versions: push, activate, roll back, quarantine, release, remove.

Each act is written to the database first and then served: this replica syncs before the act returns, the
others follow by the revision. A kill at any moment leaves what the database says, and the next start serves
that.

push:  staged files -> validation -> signature -> store -> `staged` -> `validated` -> probe -> `probed`
"""

from __future__ import annotations

import asyncio
import time
from weakref import WeakValueDictionary

from steer_server.catalogue import acts, aliases, views
from steer_server.catalogue.admission import Admission
from steer_server.catalogue.database import Database
from steer_server.catalogue.follow import read_replicas
from steer_server.catalogue.package import StagedPackage
from steer_server.catalogue.records import Actor, NewVersion, VersionRecord
from steer_server.catalogue.replica import Replica
from steer_server.catalogue.states import ACTIVATABLE, State
from steer_server.errors import CatalogueError, ConflictError, NotReadyError

ABORT = "operator_abort"
"""Reason of a quarantine that also ends running requests, on every replica."""
QUARANTINE = "operator"
LIVE_REPLICA_SECONDS = 15.0
"""A replica that was not seen for so long is not waited for."""


class Lifecycle:
    """The acts, on one replica. Every act is audited, also when it is refused."""

    def __init__(self, database: Database, admission: Admission, replica: Replica) -> None:
        self.database, self.admission, self.replica = database, admission, replica
        self.store = admission.store
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By digest, while somebody stores or deletes its files."""

    async def push(
        self, package: StagedPackage, actor: Actor, *, activate: bool = False, label: str = ""
    ) -> VersionRecord:
        """The version that a staged package became: `probed`, or `active` if asked for. The same content
        again goes on from the state that it is in.

        Args:
            label: what the version is called; empty: as its manifest says.

        Raises:
            CatalogueError: the package is refused; nothing is kept of it but the audit.
            ConflictError: `version_taken`, or it is quarantined, or cannot be activated.
        """
        manifest = package.manifest
        async with self._lock(manifest.digest):
            try:
                _, signature = await self.admission.checked(package.folder)
            except CatalogueError as error:
                await acts.record(
                    self.database,
                    actor,
                    "push",
                    "refused",
                    name=manifest.name,
                    version=label or manifest.version,
                    digest=manifest.digest,
                    detail=f"{error.reason}: {error.detail}",
                )
                raise
            # Files before the row: a kill between leaves files that `sweep` takes, never a row without files.
            await self.store.put(package.folder, manifest.digest)
            new = NewVersion(
                digest=manifest.digest,
                name=manifest.name,
                version=label or manifest.version,
                kind=manifest.kind,
                manifest=manifest.model_dump(mode="json"),
                size_bytes=sum(entry.size_bytes for entry in manifest.files),
                signature=signature.state,
            )
            version, _ = await acts.add_version(self.database, actor, new)
            version = await self._probed(version, actor)
        if activate and version.state is not State.ACTIVE:
            version = await self.activate(version.name, version.version, actor)
        return version

    async def activate(self, name: str, version: str, actor: Actor) -> VersionRecord:
        """The version, served by this replica when this returns.

        A version that was only validated, such as one released from quarantine, is probed first.

        Raises: NotFoundError, ConflictError; CatalogueError when its probe fails; NotReadyError
            `version_not_served` when it is active and this replica alone cannot load it.
        """
        found = await self._probed(await views.find_version(self.database, name, version), actor)
        active = await aliases.activate(self.database, actor, name, found.digest)
        return await self._served(active)

    async def rollback(self, name: str, actor: Actor) -> VersionRecord:
        """The version that was active before, served again. Raises: NotFoundError, ConflictError."""
        return await self._served(await aliases.rollback(self.database, actor, name))

    async def deactivate(self, name: str, actor: Actor) -> VersionRecord | None:
        """The version that is not planned with any more; None when none was active."""
        version = await aliases.deactivate(self.database, actor, name)
        await self.replica.sync()
        return version

    async def quarantine(
        self, name: str, version: str, actor: Actor, *, detail: str = "", abort: bool = False
    ) -> VersionRecord:
        """The version, refused to new requests when this returns. Running requests finish, or are ended with
        an error if `abort`."""
        found = await views.find_version(self.database, name, version)
        reason = ABORT if abort else QUARANTINE
        found = await acts.quarantine(self.database, actor, found.digest, reason=reason, detail=detail)
        await self.replica.sync()
        return found

    async def release(self, name: str, version: str, actor: Actor) -> VersionRecord:
        """The version out of quarantine, probed anew and not active.

        Raises: NotFoundError, ConflictError, and CatalogueError when its probe fails.
        """
        found = await views.find_version(self.database, name, version)
        released = await self._probed(await acts.release(self.database, actor, found.digest), actor)
        await self.replica.sync()
        return released

    async def remove(self, name: str, version: str, actor: Actor) -> VersionRecord:
        """What the version was. Its files go last: when no replica serves it or finishes requests with it.

        Raises: NotFoundError; ConflictError `adapter_active`.
        """
        found = await views.find_version(self.database, name, version)
        removed = await acts.remove(self.database, actor, found.digest)
        record = await self.replica.sync()
        await self._let_go_everywhere(record.revision)
        await self.replica.drained(removed.digest)
        async with self._lock(removed.digest):
            # The same content may have been pushed again meanwhile.
            if removed.digest not in (await views.read(self.database)).versions:
                await self.store.remove(removed.digest)
        return removed

    async def sweep(self) -> None:
        """Deletes what crashes left in the store."""
        record = await views.read(self.database)
        await self.store.sweep(frozenset(record.versions))

    def _lock(self, digest: str) -> asyncio.Lock:
        lock = self._locks.get(digest) or asyncio.Lock()
        self._locks[digest] = lock
        return lock

    async def _probed(self, version: VersionRecord, actor: Actor) -> VersionRecord:
        """The version in a state from which it may be activated, taken there if need be."""
        if version.state in ACTIVATABLE or version.state is State.ACTIVE:
            return version
        if version.state is State.QUARANTINED:
            raise ConflictError(
                f"{version.title} is quarantined ({version.reason}: {version.detail}); an operator must "
                "release it first.",
                code="state_conflict",
            )
        if version.state is State.STAGED:
            version = await acts.set_state(self.database, actor, version.digest, State.VALIDATED)
        try:
            await self.admission.load(version.digest)
        except CatalogueError as error:
            if error.is_about_storage:
                raise
            await acts.quarantine(
                self.database, actor, version.digest, reason=error.reason, detail=error.detail
            )
            raise
        return await acts.set_state(self.database, actor, version.digest, State.PROBED)

    async def _served(self, version: VersionRecord) -> VersionRecord:
        await self.replica.sync()
        if problem := self.replica.problems.get(version.digest):
            raise NotReadyError(
                f"{version.title} is active, but this server cannot serve it yet: {problem}",
                retry_after_seconds=5,
                code="version_not_served",
            )
        return version

    async def _let_go_everywhere(self, revision: int) -> None:
        """Waits until every replica that lives has come so far."""
        deadline = time.monotonic() + LIVE_REPLICA_SECONDS
        while time.monotonic() < deadline:
            replicas = await read_replicas(self.database)
            newest = max((one.last_seen for one in replicas), default=None)
            behind = [
                one
                for one in replicas
                if one.revision < revision
                and newest is not None
                and (newest - one.last_seen).total_seconds() < LIVE_REPLICA_SECONDS
            ]
            if not behind:
                return
            await asyncio.sleep(0.1)
