"""What must hold of a catalogue's files after a start and after the last one, whatever was killed before."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import delete

from steer_server.catalogue import tables, views
from steer_server.catalogue.database import Database
from steer_server.catalogue.follow import read_replicas
from steer_server.catalogue.manifest import read_manifest
from steer_server.catalogue.package import read_package
from steer_server.catalogue.service import DATABASE_FILE, STORE_FOLDER
from steer_server.catalogue.store import LOCK, LocalStore


def sqlite_url(data: Path) -> str:
    return f"sqlite:///{data / DATABASE_FILE}"


async def assert_store_is_whole(data: Path, database: Database) -> int:
    """Whole versions only, none missing, and no unfinished work of dead processes. Returns: how many were
    stored and belonged to no row."""
    root = data / STORE_FOLDER
    folders = {path.name: path for path in (root / "versions").iterdir()}
    for digest, folder in folders.items():
        read_package(folder)
        manifest = read_manifest(folder)
        assert manifest.digest == digest
        for entry in manifest.files:
            assert (folder / entry.path).stat().st_size == entry.size_bytes
    known = set((await views.read(database)).versions)
    assert known <= folders.keys()
    # Of the start: the living server's own area is empty, and those of the killed are gone.
    areas = list((root / "staging").iterdir())
    assert len(areas) == 1 and [path.name for path in areas[0].iterdir()] == [LOCK]
    return len(folders.keys() - known)


async def forget_dead_replicas(database: Database) -> None:
    """As if they had been silent for long; removals would wait for them, and no server lives so long here."""
    newest = max(await read_replicas(database), key=lambda replica: replica.last_seen)
    async with database.writing() as connection:
        await connection.execute(delete(tables.replicas).where(tables.replicas.c.id != newest.id))


async def assert_swept(data: Path) -> None:
    """Files without a row go, once they are old enough; no server runs meanwhile."""
    store = LocalStore(data / STORE_FOLDER)
    database = await Database.open(sqlite_url(data))
    try:
        known = frozenset((await views.read(database)).versions)
        await store.sweep(known, min_age_seconds=0)
        assert await store.digests() == known
    finally:
        await store.close()
        await database.close()
