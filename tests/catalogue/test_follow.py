"""Following the revision: hints, polls, and a database that goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import psycopg
import pytest
from sqlalchemy import text

from steer_server.catalogue import acts
from steer_server.catalogue.database import Database
from steer_server.catalogue.follow import changes
from tests.support.catalogue_acts import OPERATOR, add_active, new_version
from tests.support.postgres import PostgreSQL
from tests.support.waiting import until

LONG_SECONDS = 600.0
"""Between two polls: whatever comes within a tenth of it was not polled."""


@asynccontextmanager
async def following(
    database: Database, *, poll_seconds: float = 0.1, listen: bool = True
) -> AsyncIterator[asyncio.Queue[int]]:
    queue: asyncio.Queue[int] = asyncio.Queue()

    async def follow() -> None:
        async with aclosing(changes(database, poll_seconds=poll_seconds, listen=listen)) as revisions:
            async for revision in revisions:
                queue.put_nowait(revision)

    task = asyncio.create_task(follow())
    try:
        yield queue
        assert not task.done(), "the loop ended"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def following_at(queue: asyncio.Queue[int], revision: int) -> None:
    async with asyncio.timeout(LONG_SECONDS / 10):
        while await queue.get() != revision:
            pass


async def is_listening(postgresql: PostgreSQL, url: str) -> None:
    """Returns when a connection of this database has said LISTEN."""
    query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        async with asyncio.timeout(60):
            while await (await connection.execute(query)).fetchone() is None:
                await asyncio.sleep(0.02)


async def test_the_revision_is_given_at_once_and_after_each_act_by_polling(database: Database) -> None:
    async with following(database, listen=False) as queue:
        await following_at(queue, 0)
        digest = await add_active(database, new_version())
        await following_at(queue, 1)
        await acts.record(database, OPERATOR, "push", "refused", detail="no concern of replicas")
        await asyncio.sleep(0.5)
        assert queue.empty()
        await acts.quarantine(database, OPERATOR, digest, reason="harmful")
        await following_at(queue, 2)


async def test_a_hint_arrives_long_before_the_next_poll(postgresql: PostgreSQL, postgresql_url: str) -> None:
    database, other = await Database.open(postgresql_url), await Database.open(postgresql_url)
    async with following(database, poll_seconds=LONG_SECONDS) as queue:
        await following_at(queue, 0)
        await is_listening(postgresql, postgresql_url)
        await asyncio.sleep(0.2)
        for number in range(1, 6):
            await add_active(other, new_version(str(number)))
            # Measured: 0.5 ms in the median of 100, 3.7 ms at most.
            await following_at(queue, number)
    await database.close()
    await other.close()


async def test_polling_alone_catches_up_when_hints_are_lost(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    database = await Database.open(postgresql_url)
    async with following(database, poll_seconds=0.5) as queue:
        await following_at(queue, 0)
        await is_listening(postgresql, postgresql_url)
        async with database.writing() as connection:
            await connection.execute(text("UPDATE revision SET value = 7"))
        await following_at(queue, 7)
    await database.close()


async def test_a_listener_that_is_cut_off_listens_again(postgresql: PostgreSQL, postgresql_url: str) -> None:
    database = await Database.open(postgresql_url)
    async with following(database, poll_seconds=1.0) as queue:
        await following_at(queue, 0)
        for revision in (1, 2):
            await is_listening(postgresql, postgresql_url)
            async with database.writing() as connection:
                await connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND query LIKE 'LISTEN%'"
                    )
                )
            await add_active(database, new_version(str(revision)))
            await following_at(queue, revision)
    await database.close()


async def test_following_survives_a_database_that_goes_away_and_comes_back(
    postgresql: PostgreSQL, postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = await Database.open(postgresql_url)
    async with following(database, poll_seconds=0.2) as queue:
        await following_at(queue, 0)
        with postgresql.away():
            await asyncio.sleep(1)
            await until(lambda: "cannot be followed now" in caplog.text)
            assert queue.empty()
        # Given again though nothing changed: its follower cannot know what it missed.
        await following_at(queue, 0)
        await add_active(database, new_version())
        await following_at(queue, 1)
    await database.close()


async def test_a_follower_that_is_stopped_gives_up_its_connection(postgresql_url: str) -> None:
    database = await Database.open(postgresql_url)
    async with following(database) as queue:
        await following_at(queue, 0)
        await asyncio.sleep(0.3)
    await database.close()
    name = postgresql_url.rsplit("/", 1)[1]
    admin_url = postgresql_url.removesuffix(name) + "postgres"
    async with await psycopg.AsyncConnection.connect(admin_url, autocommit=True) as connection:
        async with asyncio.timeout(60):
            while True:
                counted = await connection.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = %s", (name,)
                )
                if await counted.fetchone() == (0,):
                    return
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("poll_seconds", [0.05])
async def test_several_acts_may_be_one_step(database: Database, poll_seconds: float) -> None:
    async with following(database, poll_seconds=poll_seconds) as queue:
        await asyncio.gather(*(add_active(database, new_version(f"n{n}")) for n in range(10)))
        await following_at(queue, 10)
        seen = [queue.get_nowait() for _ in range(queue.qsize())]
        assert not seen
