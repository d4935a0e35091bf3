"""Keys in the catalogue's database, on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select

from steer_server.catalogue import keys, tables, views
from steer_server.catalogue.database import Database
from steer_server.catalogue.records import KeyLimits, KeyRole
from steer_server.catalogue.tables import now
from steer_server.errors import RequestError
from tests.support.catalogue_acts import OPERATOR, assert_consistent


@pytest.mark.parametrize("role", ["application", "operator"])
async def test_a_key_is_found_by_its_secret_which_is_stored_nowhere(
    database: Database, role: KeyRole
) -> None:
    key, secret = await keys.create_key(database, OPERATOR, role, "a demo")
    assert secret.startswith(keys.PREFIXES[role]) and len(secret) >= len(keys.PREFIXES[role]) + 43
    assert secret.startswith(key.prefix) and len(secret) - len(key.prefix) >= 37
    assert await keys.find_key(database, keys.secret_sha256(secret)) == key
    assert await keys.find_key(database, keys.secret_sha256(secret[:-1])) is None
    assert await keys.list_keys(database) == [key]
    async with database.reading() as connection:
        for table in tables.metadata.tables.values():
            for row in await connection.execute(select(table)):
                assert secret.removeprefix(key.prefix) not in str(row)
    await assert_consistent(database)


async def test_limits_are_kept_as_they_were_given(database: Database) -> None:
    limits = KeyLimits(frozenset({"confucian"}), frozenset(), 60, 4, now() + timedelta(days=1))
    key, secret = await keys.create_key(database, OPERATOR, "application", "narrow", limits)
    assert key.limits == limits
    found = await keys.find_key(database, keys.secret_sha256(secret))
    assert found is not None and found.limits == limits
    wide, _ = await keys.create_key(database, OPERATOR, "application", "wide")
    assert wide.limits == KeyLimits()


@pytest.mark.parametrize(
    ("label", "limits"),
    [
        ("", KeyLimits()),
        ("x" * 200, KeyLimits()),
        ("a", KeyLimits(requests_per_minute=0)),
        ("a", KeyLimits(concurrency=-1)),
        ("a", KeyLimits(expires_at=now() - timedelta(seconds=1))),
        ("a", KeyLimits(expires_at=now().replace(tzinfo=None) + timedelta(days=1))),
    ],
)
async def test_a_key_that_would_allow_nothing_is_refused(
    database: Database, label: str, limits: KeyLimits
) -> None:
    with pytest.raises(RequestError) as caught:
        await keys.create_key(database, OPERATOR, "application", label, limits)
    assert caught.value.param
    assert not await keys.list_keys(database)
    assert [e.outcome for e in await views.audit(database)] == ["refused"]


async def test_making_and_revoking_keys_is_told_to_replicas(database: Database) -> None:
    key, secret = await keys.create_key(database, OPERATOR, "operator", "a person")
    assert await views.read_revision(database) == 1
    revoked = await keys.revoke_key(database, OPERATOR, key.id)
    assert revoked.revoked_at is not None
    assert await views.read_revision(database) == 2
    assert await keys.revoke_key(database, OPERATOR, key.id) == revoked
    assert await views.read_revision(database) == 2
    assert await keys.find_key(database, keys.secret_sha256(secret)) == revoked
    await assert_consistent(database)


async def test_revoking_the_only_application_key_does_not_open_the_server(database: Database) -> None:
    await keys.create_key(database, OPERATOR, "operator", "a person")
    assert not await keys.has_application_keys(database)
    key, _ = await keys.create_key(database, OPERATOR, "application", "a demo")
    await keys.revoke_key(database, OPERATOR, key.id)
    assert await keys.has_application_keys(database)


async def test_the_latest_use_wins(database: Database) -> None:
    key, _ = await keys.create_key(database, OPERATOR, "application", "a demo")
    late, early = now(), now() - timedelta(minutes=5)
    for at in (early, late, early):
        await keys.note_use(database, {key.id: at, "key-unknown": at})
    (found,) = await keys.list_keys(database)
    assert found.last_used_at == late
    assert await views.read_revision(database) == 1
