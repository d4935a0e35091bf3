"""Following the catalogue's database: when to look again, and how far each replica has come.

The revision is the truth and is polled. PostgreSQL's LISTEN/NOTIFY only makes the next look come sooner: what
is sent while nobody listens is lost, and nothing here depends on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from datetime import timedelta
from typing import Any

import psycopg
from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite

from steer_server.catalogue import tables
from steer_server.catalogue.acting import CHANNEL
from steer_server.catalogue.database import Database
from steer_server.catalogue.records import ReplicaRecord
from steer_server.catalogue.views import read_revision
from steer_server.errors import DatabaseError

FORGET_REPLICA_AFTER = timedelta(days=7)

logger = logging.getLogger("steer_server.catalogue")


async def changes(
    database: Database, *, poll_seconds: float = 1.0, listen: bool = True
) -> AsyncGenerator[int, None]:
    """The revision: now, then whenever it is another, and after the database was away.

    Never ends and never raises on account of the database; while it is away nothing is yielded. Several acts
    may be one step. Close it (`aclosing`) to give up its connection.

    Args:
        poll_seconds: the longest time between two looks.
        listen: False leaves it at polling, for connections through a pooler that cannot LISTEN.
    """
    url = database.postgresql_url if listen else None
    waiter = _Listener(url) if url else _Sleeper()
    seen: int | None = None
    try:
        while True:
            try:
                revision = await read_revision(database)
            except DatabaseError:
                if seen is not None:
                    logger.warning("catalogue: cannot be followed now; what is loaded is served on")
                seen = None
            else:
                if revision != seen:
                    seen = revision
                    yield revision
            await waiter.wait(poll_seconds)
    finally:
        await waiter.close()


class _Sleeper:
    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        pass


class _Listener:
    """A connection of its own that waits for NOTIFY, made again whenever it is lost."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._is_lost = False

    async def wait(self, seconds: float) -> None:
        """Returns at a notification, after `seconds`, or just after connecting, when some may have been
        missed."""
        started = asyncio.get_running_loop().time()
        try:
            if self._connection is None:
                await self._connect()
                return
            async for _ in self._connection.notifies(timeout=seconds, stop_after=1):
                pass
        except (psycopg.Error, OSError) as error:
            if not self._is_lost:
                logger.warning("catalogue: no notifications (%s); polling goes on", str(error).strip())
            self._is_lost = True
            await self.close()
            # Not at once: a database that is starting would be asked in a tight loop.
            passed = asyncio.get_running_loop().time() - started
            await asyncio.sleep(max(0.0, seconds - passed))

    async def _connect(self) -> None:
        connection = await psycopg.AsyncConnection.connect(self._url, autocommit=True)
        try:
            await connection.execute(f"LISTEN {CHANNEL}")
        except BaseException:
            await connection.close()
            raise
        self._connection, self._is_lost = connection, False

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


async def report(database: Database, replica: str, revision: int, problems: Mapping[str, str]) -> None:
    """Says how far this replica has come. No act: it is not audited. Replicas that were silent for a week are
    forgotten."""
    now = tables.now()
    values = {"revision": revision, "last_seen": now, "problems": dict(problems)}
    async with database.writing() as connection:
        table = tables.replicas
        await connection.execute(delete(table).where(table.c.last_seen < now - FORGET_REPLICA_AFTER))
        upsert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        new = upsert(table).values(id=replica, **values)
        await connection.execute(new.on_conflict_do_update(index_elements=[table.c.id], set_=values))


async def read_replicas(database: Database) -> list[ReplicaRecord]:
    """Every replica that reported in the last week, by id."""
    async with database.reading() as connection:
        rows = await connection.execute(select(tables.replicas).order_by(tables.replicas.c.id))
        return [ReplicaRecord(**row._mapping) for row in rows]
