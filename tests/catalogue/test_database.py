"""Opening, making and migrating the database."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from steer_server.catalogue import follow, tables, views
from steer_server.catalogue.database import Database, parse_url
from steer_server.errors import ConfigError, DatabaseError
from tests.support.catalogue_acts import add_active, new_version
from tests.support.postgres import PostgreSQL


async def test_the_steps_make_the_tables_that_the_code_knows(database: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, tables.metadata))

    async with database.reading() as connection:
        assert await connection.run_sync(differences) == []


async def test_opening_an_up_to_date_database_changes_nothing(
    database: Database, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await add_active(database, new_version())
    before = await views.read(database)
    caplog.set_level(logging.INFO, "steer_server.catalogue")
    again = await Database.open(database_url)
    assert await views.read(again) == before
    assert not caplog.records
    await again.close()


async def test_servers_that_start_at_once_make_one_database(database_url: str) -> None:
    opened = await asyncio.gather(*(Database.open(database_url) for _ in range(4)))
    assert [await views.read_revision(database) for database in opened] == [0] * 4
    for database in opened:
        await database.close()


async def test_a_newer_database_refuses_to_start(database: Database, database_url: str) -> None:
    async with database.writing() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match=r"9999.*newer"):
        await Database.open(database_url)


@pytest.mark.parametrize(
    "url",
    ["", "nonsense", "mysql://u:hush@h/d", "sqlite://", "sqlite:///:memory:", "postgresql://u:hush@h:x/"],
)
async def test_a_url_that_cannot_be_used_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await Database.open(url)
    assert "hush" not in str(caught.value)


def test_the_drivers_are_ours_whatever_the_url_says() -> None:
    assert parse_url("sqlite:////a/b").drivername == "sqlite+aiosqlite"
    for prefix in ("postgres", "postgresql", "postgresql+asyncpg"):
        url = parse_url(f"{prefix}://u:p@h:1/d?connect_timeout=9")
        assert url.drivername == "postgresql+psycopg" and url.query["connect_timeout"] == "9"


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "catalogue.db").write_text("not a database " * 100)
    with pytest.raises(ConfigError, match="not a database"):
        await Database.open(f"sqlite:///{tmp_path / 'catalogue.db'}")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError):
        await Database.open(f"sqlite:///{tmp_path / 'file' / 'catalogue.db'}")


async def test_sqlite_is_durable_and_keeps_its_promises(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "catalogue.db"
    database = await Database.open(f"sqlite:///{path}")
    pragmas = {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 2, "busy_timeout": 30_000}
    async with database.reading() as connection:
        found = {name: await connection.scalar(text(f"PRAGMA {name}")) for name in pragmas}
    assert found == pragmas
    await database.close()


async def test_a_database_that_stays_locked_is_an_error_to_retry(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steer_server.catalogue.database.WAIT_SECONDS", 0.2)
    database = await Database.open(sqlite_url)
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseError) as caught:
        await add_active(database, new_version())
    assert caught.value.http_status == 503 and caught.value.headers["Retry-After"]
    assert await views.read_revision(database) == 0
    other.execute("ROLLBACK")
    other.close()
    await add_active(database, new_version())
    await database.close()


async def test_a_postgresql_that_is_away_is_an_error_to_retry_and_comes_back(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    database = await Database.open(postgresql_url)
    with postgresql.away():
        with pytest.raises(DatabaseError):
            await views.read(database)
        with pytest.raises(DatabaseError):
            await add_active(database, new_version())
        with pytest.raises(DatabaseError):
            await Database.open(postgresql_url)
    await add_active(database, new_version())
    await database.close()


async def test_replicas_say_how_far_they_have_come(database: Database) -> None:
    await follow.report(database, "b", 3, {"d" * 64: "no slot"})
    await asyncio.gather(*(follow.report(database, "a", 4, {}) for _ in range(5)))
    first, second = await follow.read_replicas(database)
    assert (first.id, first.revision, dict(first.problems)) == ("a", 4, {})
    assert second.problems == {"d" * 64: "no slot"} and second.last_seen.utcoffset() is not None
    async with database.writing() as connection:
        old = tables.now() - 2 * follow.FORGET_REPLICA_AFTER
        await connection.execute(tables.replicas.update().values(last_seen=old))
    await follow.report(database, "c", 5, {})
    assert [replica.id for replica in await follow.read_replicas(database)] == ["c"]
