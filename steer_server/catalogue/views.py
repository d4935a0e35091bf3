"""Reading the catalogue's database: what is there, what a name has pointed at, who did what."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from steer_server.catalogue import tables
from steer_server.catalogue.database import Database
from steer_server.catalogue.records import (
    AliasMove,
    AuditEntry,
    CatalogueRecord,
    Outcome,
    VersionRecord,
)
from steer_server.catalogue.states import State
from steer_server.errors import NotFoundError

MAX_LIMIT = 1000


async def read(database: Database) -> CatalogueRecord:
    """Revision, versions and aliases of one moment."""
    async with database.reading() as connection:
        revision = await _revision(connection)
        versions = await connection.execute(
            select(tables.versions).order_by(tables.versions.c.name, tables.versions.c.created_at)
        )
        aliases = await connection.execute(select(tables.aliases).order_by(tables.aliases.c.name))
        return CatalogueRecord(
            revision,
            {row.digest: version_record(row) for row in versions},
            {row.name: row.digest for row in aliases},
        )


async def read_revision(database: Database) -> int:
    """What replicas compare with what they serve."""
    async with database.reading() as connection:
        return await _revision(connection)


async def find_version(database: Database, name: str, version: str) -> VersionRecord:
    """The version with this label. Raises: NotFoundError."""
    async with database.reading() as connection:
        table = tables.versions.c
        found = await connection.execute(
            select(tables.versions).where(table.name == name, table.version == version)
        )
        row = found.one_or_none()
    if row is None:
        raise NotFoundError(f"There is no version {name}@{version}.", code="adapter_not_found")
    return version_record(row)


async def history(database: Database, name: str) -> list[AliasMove]:
    """Every move of a name's alias, oldest first."""
    async with database.reading() as connection:
        return await moves_of(connection, name)


async def audit(
    database: Database,
    *,
    limit: int = 100,
    before_id: int | None = None,
    name: str | None = None,
    action: str | None = None,
    actor: str | None = None,
    outcome: Outcome | None = None,
) -> list[AuditEntry]:
    """The newest audit rows that match everything given, newest first.

    Args:
        limit: at most 1000.
        before_id: only rows older than this one, to read on from an earlier answer.
    """
    table = tables.audit.c
    query = select(tables.audit).order_by(table.id.desc()).limit(max(0, min(limit, MAX_LIMIT)))
    if before_id is not None:
        query = query.where(table.id < before_id)
    wanted = {table.name: name, table.action: action, table.actor: actor, table.outcome: outcome}
    for column, value in wanted.items():
        if value is not None:
            query = query.where(column == value)
    async with database.reading() as connection:
        rows = await connection.execute(query)
        return [AuditEntry(**row._mapping) for row in rows]


def version_record(row: Row[Any]) -> VersionRecord:
    return VersionRecord(**{**row._mapping, "state": State(row.state)})


async def moves_of(connection: AsyncConnection, name: str) -> list[AliasMove]:
    table = tables.alias_history
    rows = await connection.execute(select(table).where(table.c.name == name).order_by(table.c.id))
    return [AliasMove(**row._mapping) for row in rows]


async def read_version(connection: AsyncConnection, digest: str) -> VersionRecord:
    """Raises: NotFoundError."""
    rows = await connection.execute(select(tables.versions).where(tables.versions.c.digest == digest))
    row = rows.one_or_none()
    if row is None:
        raise NotFoundError(f"There is no version with digest {digest}.", code="adapter_not_found")
    return version_record(row)


async def _revision(connection: AsyncConnection) -> int:
    return int((await connection.execute(select(tables.revision.c.value))).scalar_one())
