"""The catalogue's database: connections and transactions.

SQLite (one server, or several processes of one machine; never on a network file system) or PostgreSQL
(several replicas).

Not covered: a database that takes connections and never answers, which is waited for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import sqlalchemy.exc as sql_errors
from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from steer_server.catalogue.migrate import migrate
from steer_server.errors import ConfigError, DatabaseError

WAIT_SECONDS = 30
"""Longest wait for a lock on SQLite, and for a free connection. Every act is synced to the disk with the lock
held, and a busy disk has been seen to take more than 10 s over it."""

POSTGRESQL_OPTIONS = {
    # A peer that vanished without a word is noticed in about ten seconds instead of minutes.
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}

logger = logging.getLogger("steer_server.catalogue")


class Database:
    """A migrated database. `await Database.open(url)`, and `close` at the end."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._problem = ""
        """What the log has said of a database that does not answer; empty when it does."""
        self.last_answer = time.monotonic()
        """When it last answered, by `time.monotonic`."""

    @classmethod
    async def open(cls, url: str) -> Database:
        """The database at `url`, made and migrated if need be.

        Args:
            url: `sqlite:///path` or `postgresql://user:password@host/name`; the drivers are ours.

        Raises:
            ConfigError: the URL, the file or the schema cannot be used by this program.
            DatabaseError: it does not answer.
        """
        parsed = parse_url(url)
        is_postgresql = parsed.get_backend_name() == "postgresql"
        engine = create_async_engine(
            parsed,
            hide_parameters=True,
            pool_timeout=WAIT_SECONDS,
            pool_pre_ping=is_postgresql,
            connect_args={} if is_postgresql else {"timeout": WAIT_SECONDS},
        )
        database = cls(engine)
        try:
            if not is_postgresql:
                await _prepare_sqlite(engine, Path(parsed.database or ""))
            async with database._transaction(writes=True) as connection:
                await connection.run_sync(migrate)
        except sql_errors.DatabaseError as error:
            await engine.dispose()
            raise ConfigError(f"the catalogue's database cannot be used: {error.orig}") from error
        except BaseException:
            await engine.dispose()
            raise
        return database

    async def close(self) -> None:
        await self._engine.dispose()

    @property
    def postgresql_url(self) -> str | None:
        """What a connection of its own needs, for LISTEN; None on SQLite. It holds the password."""
        url = self._engine.url
        if url.get_backend_name() != "postgresql":
            return None
        return url.set(drivername="postgresql").render_as_string(hide_password=False)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection on which everything read is of one moment. Raises: DatabaseError."""
        async with self._transaction(writes=False) as connection:
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that may write. Acts use `acting.py`, which adds the audit. Raises: DatabaseError."""
        async with self._transaction(writes=True) as connection:
            yield connection

    @asynccontextmanager
    async def _transaction(self, *, writes: bool) -> AsyncIterator[AsyncConnection]:
        options: dict[str, Any] = {"begin_immediate": writes}
        if self._engine.dialect.name == "postgresql" and not writes:
            options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        try:
            async with self._engine.connect() as connection:
                await connection.execution_options(**options)
                async with connection.begin():
                    self._problem = ""
                    self.last_answer = time.monotonic()
                    yield connection
        except (
            sql_errors.OperationalError,
            sql_errors.InterfaceError,
            sql_errors.InternalError,
            sql_errors.TimeoutError,
        ) as error:
            # The answer goes to whoever asked; the details, which may name hosts, to the log: once, as a
            # follower asks every second.
            problem = str(getattr(error, "orig", error)).strip()
            if problem != self._problem:
                logger.warning("catalogue database: %s", problem)
            self._problem = problem
            raise DatabaseError("The catalogue's database does not answer; try again.") from error


def parse_url(url: str) -> URL:
    """The URL with our drivers. Raises: ConfigError, without the URL, which may hold a password."""
    try:
        parsed = make_url(url)
    except (sql_errors.ArgumentError, ValueError) as error:
        raise ConfigError(
            "the database URL cannot be read; give sqlite:///path or postgresql://..."
        ) from error
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise ConfigError("the catalogue's database must be a file: sqlite:///path")
        return parsed.set(drivername="sqlite+aiosqlite")
    if backend in ("postgresql", "postgres"):
        query = {**POSTGRESQL_OPTIONS, **parsed.query}
        return parsed.set(drivername="postgresql+psycopg", query=query)
    raise ConfigError(f"the catalogue's database is SQLite or PostgreSQL, not {backend}")


async def _prepare_sqlite(engine: AsyncEngine, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the catalogue's database cannot be made: {error}") from error

    @event.listens_for(engine.sync_engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        # The driver would begin transactions by itself, and late; `_on_begin` does it instead.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys = ON")
        # In WAL mode the weaker NORMAL could lose acts that were answered, when the power fails.
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _on_begin(connection: Connection) -> None:
        # A transaction that reads first and writes later fails at once when another has written meanwhile,
        # however long it may wait; so those that will write take the lock at their beginning.
        writes = connection.get_execution_options().get("begin_immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    await _switch_to_wal(engine)


async def _switch_to_wal(engine: AsyncEngine) -> None:
    # SQLite does not wait for a lock here: two processes that make the file at once get "database is locked".
    deadline = asyncio.get_running_loop().time() + WAIT_SECONDS
    while True:
        try:
            async with engine.connect() as connection:
                raw = await connection.get_raw_connection()
                assert raw.driver_connection is not None
                await raw.driver_connection.execute("PRAGMA journal_mode = WAL")
                return
        except Exception as error:
            if "locked" not in str(error) or asyncio.get_running_loop().time() > deadline:
                raise ConfigError(f"the catalogue's database cannot be used: {error}") from error
            await asyncio.sleep(0.05)
