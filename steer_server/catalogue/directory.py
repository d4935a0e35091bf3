"""A directory of adapter folders as a source of versions: what lies in it is pushed and activated.

Once known, a version's state is the database's: one that an operator rolled back from or quarantined stays
so, however often the directory is read. A name whose folder is gone is deactivated, if the directory brought
it. A folder that changed without a new version is a version of its own, `1.0.0+<beginning of its digest>`:
nobody who trains again has to think of a number, and no version ever changes.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from functools import partial
from pathlib import Path

from steer_server.catalogue import views
from steer_server.catalogue.lifecycle import Lifecycle
from steer_server.catalogue.loader import RefusedAdapter
from steer_server.catalogue.manifest import MANIFEST, Manifest, read_manifest
from steer_server.catalogue.package import stage_folder
from steer_server.catalogue.records import Actor, CatalogueRecord
from steer_server.catalogue.replica import RETRY_SECONDS
from steer_server.catalogue.states import State
from steer_server.catalogue.threads import Stop, on_disk
from steer_server.errors import CatalogueError, ConfigError, ConflictError, SteerError

ACTOR = Actor("directory", "system")
QUIET_MILLISECONDS = 1000
"""A folder that is being copied changes again and again; it is read when nothing has changed for so long."""

LOOK_MILLISECONDS = 1000
"""From when it watches until it reads the directory without a change."""

ATTEMPTS = 3
"""Replicas that start together bring the same folders at the same time."""

logger = logging.getLogger("steer_server.catalogue")


class AdapterDirectory:
    """Raises: ConfigError when the directory does not exist."""

    def __init__(self, path: Path, lifecycle: Lifecycle) -> None:
        if not path.is_dir():
            raise ConfigError(f"--adapters {path}: no such directory")
        self.path, self.lifecycle = path.resolve(), lifecycle
        self.refused: tuple[RefusedAdapter, ...] = ()
        """As of the last reading."""
        self._lock = asyncio.Lock()

    async def read(self) -> None:
        """Pushes and activates what is new, deactivates what is gone. A bad folder is refused by itself."""
        async with self._lock:
            record = await views.read(self.lifecycle.database)
            folders = await on_disk("directory", lambda _: self._folders())
            # A folder that cannot be read is not a folder that is gone.
            present, refused = {folder.name for folder in folders}, []
            for folder in folders:
                try:
                    manifest = await on_disk(folder.name, partial(_manifest, folder))
                    present.add(manifest.name)
                    await self._bring(folder, manifest, record)
                except SteerError as error:
                    reason = error.reason if isinstance(error, CatalogueError) else error.code
                    detail = error.detail if isinstance(error, CatalogueError) else str(error)
                    logger.error("refused %s: %s: %s", folder.name, reason, detail)
                    refused.append(RefusedAdapter(folder.name, reason, detail))
            self.refused = tuple(refused)
            for name in _brought(record) - present:
                logger.info("%s is not in %s any more", name, self.path.name)
                await self.lifecycle.deactivate(name, ACTOR)

    async def watch(self) -> None:
        """Reads the directory whenever something in it has changed, until cancelled. What goes wrong is
        logged, and watching begins anew."""
        from watchfiles import awatch

        while True:
            found = awatch(
                self.path,
                debounce=QUIET_MILLISECONDS,
                step=QUIET_MILLISECONDS // 2,
                rust_timeout=LOOK_MILLISECONDS,
                yield_on_timeout=True,
            )
            is_read = False
            try:
                async with aclosing(found):
                    async for changes in found:
                        # Once without a change too: nobody saw those from before it watched.
                        if changes or not is_read:
                            await self.read()
                            is_read = True
            except SteerError as error:
                logger.error("%s: %s", self.path.name, error)
            except Exception:
                logger.exception("%s: watching failed; again in %g seconds", self.path.name, RETRY_SECONDS)
            await asyncio.sleep(RETRY_SECONDS)

    def _folders(self) -> list[Path]:
        return sorted(path for path in self.path.iterdir() if (path / MANIFEST).exists())

    async def _bring(
        self, folder: Path, manifest: Manifest, record: CatalogueRecord, attempts: int = ATTEMPTS
    ) -> None:
        known = record.versions.get(manifest.digest)
        if known is not None and known.state not in (State.STAGED, State.VALIDATED):
            if known.state is State.QUARANTINED:
                raise CatalogueError(known.name, known.reason, known.detail)
            return
        taken = any(
            (one.name, one.version) == (manifest.name, manifest.version) and one is not known
            for one in record.versions.values()
        )
        label = f"{manifest.version}+{manifest.digest[:8]}" if taken else ""
        try:
            async with stage_folder(folder, self.path, self.lifecycle.store.staging) as package:
                await self.lifecycle.push(package, ACTOR, activate=True, label=label)
        except ConflictError:
            if attempts == 1:
                raise
            # Another replica reads the same directory: the version may be further on by now.
            await self._bring(folder, manifest, await views.read(self.lifecycle.database), attempts - 1)


def _manifest(folder: Path, _: Stop) -> Manifest:
    return read_manifest(folder)


def _brought(record: CatalogueRecord) -> set[str]:
    """Names with an active version that came from a directory."""
    active = [record.versions[digest] for digest in record.aliases.values() if digest]
    return {one.name for one in active if one.pushed_by == ACTOR.name}
