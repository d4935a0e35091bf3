"""The catalogue of one running server: opened, followed and closed together."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steer_server.catalogue.admission import Admission, Probe
from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.database import Database
from steer_server.catalogue.directory import AdapterDirectory
from steer_server.catalogue.lifecycle import Lifecycle
from steer_server.catalogue.loader import RefusedAdapter
from steer_server.catalogue.replica import Evict, Replica
from steer_server.catalogue.signatures import SignaturePolicy, read_public_keys
from steer_server.catalogue.snapshot import Catalogue
from steer_server.catalogue.store import Store, local_versions, open_store
from steer_server.settings import Settings

DATABASE_FILE = "catalogue.sqlite"
STORE_FOLDER = "store"

logger = logging.getLogger("steer_server.catalogue")


@dataclass
class CatalogueService:
    """What routes read and operators change."""

    database: Database
    store: Store
    replica: Replica
    lifecycle: Lifecycle
    directory: AdapterDirectory | None
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @classmethod
    async def open(cls, settings: Settings, base: BaseModel, probe: Probe, evict: Evict) -> CatalogueService:
        """The catalogue as the database says and the adapters directory adds; active versions are served.

        Raises: ConfigError for a directory, store, key or database that cannot be used; DatabaseError.
        """
        data = data_folder(settings, base)
        url = settings.database.get_secret_value() if settings.database else ""
        database = await Database.open(url or f"sqlite:///{data / DATABASE_FILE}")
        store = open_store(
            settings.store or str(data / STORE_FOLDER),
            cache=data / STORE_FOLDER,
            endpoint=settings.store_endpoint,
        )
        policy = SignaturePolicy(settings.signatures)
        keys = read_public_keys(_key_files(settings.trusted_keys))
        admission = Admission(store, probe, base, settings.bank_rank, policy, keys)
        replica = Replica(
            database, uuid.uuid4().hex, admission.load, evict, poll_seconds=settings.poll_seconds
        )
        lifecycle = Lifecycle(database, admission, replica)
        directory = AdapterDirectory(settings.adapters, lifecycle) if settings.adapters else None
        service = cls(database, store, replica, lifecycle, directory)
        await replica.sync()
        if directory is not None:
            await directory.read()
        await lifecycle.sweep()
        service.go_on(replica.follow())
        if directory is not None and settings.watch:
            service.go_on(directory.watch())
        return service

    @property
    def snapshot(self) -> Catalogue:
        """What requests are planned with now."""
        return self.replica.catalogue

    @property
    def refused(self) -> tuple[RefusedAdapter, ...]:
        return self.directory.refused if self.directory else ()

    async def close(self) -> None:
        """Stops following; what is loaded stays in the engine."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.replica.close()
        await self.store.close()
        await self.database.close()

    def go_on(self, work: Coroutine[Any, Any, None]) -> None:
        """Does this beside serving, until `close`."""
        task = asyncio.create_task(work)
        task.add_done_callback(_log_failure)
        self._tasks.append(task)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("work beside serving has ended", exc_info=error)


def data_folder(settings: Settings, base: BaseModel) -> Path:
    """The folder for this base model: adapters of another one are none of its business."""
    return settings.data / re.sub(r"[^A-Za-z0-9._-]", "_", min(base.names, key=len))


def stored_versions(settings: Settings, base: BaseModel) -> Path:
    """The directory of the version folders that this machine holds, its own or copies of a shared store."""
    return local_versions(settings.store or "", data_folder(settings, base) / STORE_FOLDER)


def _key_files(path: Path | None) -> list[Path]:
    if path is None:
        return []
    return sorted(path.glob("*.pub")) if path.is_dir() else [path]
