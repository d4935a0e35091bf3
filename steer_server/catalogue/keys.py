"""Keys of applications and operators: made, listed, revoked, and found by what a request presents.

A secret is 256 random bits and shown once; only its SHA-256 is stored. A slow or salted hash is for
passwords, which can be guessed. Nobody guesses 256 random bits, each request would pay for the slowness, and
a salt would forbid finding the key by its hash. The index is searched by the hash: the time of a search tells
something about the hash of what was presented, which helps nobody to find a secret. The last comparison takes
constant time all the same.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Row, insert, or_, select, update

from steer_server.catalogue import tables
from steer_server.catalogue.acting import acting
from steer_server.catalogue.database import Database
from steer_server.catalogue.records import Actor, KeyLimits, KeyRecord, KeyRole
from steer_server.errors import NotFoundError, RequestError

PREFIXES: Mapping[KeyRole, str] = {"application": "ss-app-", "operator": "ss-op-"}
NUM_SECRET_BYTES = 32
NUM_SHOWN_CHARACTERS = 6
"""Of the secret's 43, kept readable to recognise a key by; the others still hold 220 bits."""
MAX_LABEL_CHARACTERS = 128


def secret_sha256(secret: str) -> str:
    """What is stored and searched by."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


async def create_key(
    database: Database, actor: Actor, role: KeyRole, label: str, limits: KeyLimits | None = None
) -> tuple[KeyRecord, str]:
    """The new key, and its secret, which nobody can read again.

    Raises: RequestError for limits that would allow nothing or a date that has passed.
    """
    limits = limits or KeyLimits()
    secret = PREFIXES[role] + secrets.token_urlsafe(NUM_SECRET_BYTES)
    key_id = "key-" + secrets.token_hex(8)
    async with acting(database, actor, "create_key") as act:
        _check_limits(label, limits, act.at)
        act.detail = f"{key_id} ({role}): {label}"
        act.concerns_replicas = True
        row = {
            "id": key_id,
            "secret_sha256": secret_sha256(secret),
            "role": role,
            "prefix": secret[: len(PREFIXES[role]) + NUM_SHOWN_CHARACTERS],
            "label": label,
            "cultures": None if limits.cultures is None else sorted(limits.cultures),
            "axes": None if limits.axes is None else sorted(limits.axes),
            "requests_per_minute": limits.requests_per_minute,
            "concurrency": limits.concurrency,
            "expires_at": limits.expires_at,
            "created_at": act.at,
            "created_by": actor.name,
        }
        await act.connection.execute(insert(tables.keys).values(row))
        rows = await act.connection.execute(select(tables.keys).where(tables.keys.c.id == key_id))
        return _key_record(rows.one()), secret


async def list_keys(database: Database) -> list[KeyRecord]:
    """Every key, revoked ones too, oldest first."""
    async with database.reading() as connection:
        rows = await connection.execute(
            select(tables.keys).order_by(tables.keys.c.created_at, tables.keys.c.id)
        )
        return [_key_record(row) for row in rows]


async def revoke_key(database: Database, actor: Actor, key_id: str) -> KeyRecord:
    """The key, revoked; unchanged when it was already. Raises: NotFoundError."""
    async with acting(database, actor, "revoke_key") as act:
        act.detail = key_id
        table = tables.keys
        rows = await act.connection.execute(select(table).where(table.c.id == key_id))
        row = rows.one_or_none()
        if row is None:
            raise NotFoundError(f"There is no key {key_id}.", code="key_not_found")
        if row.revoked_at is not None:
            act.outcome = "unchanged"
            return _key_record(row)
        act.concerns_replicas = True
        await act.connection.execute(update(table).where(table.c.id == key_id).values(revoked_at=act.at))
        rows = await act.connection.execute(select(table).where(table.c.id == key_id))
        return _key_record(rows.one())


async def find_key(database: Database, sha256: str) -> KeyRecord | None:
    """The key whose secret has this hash, also when it is revoked or has expired: the caller looks.

    Args:
        sha256: `secret_sha256` of what was presented, so that no secret is kept in memory.
    """
    async with database.reading() as connection:
        rows = await connection.execute(select(tables.keys).where(tables.keys.c.secret_sha256 == sha256))
        row = rows.one_or_none()
    if row is None or not hmac.compare_digest(row.secret_sha256, sha256):
        return None
    return _key_record(row)


async def has_application_keys(database: Database) -> bool:
    """Whether an application key was ever made; one that is revoked counts, so revoking opens nothing."""
    async with database.reading() as connection:
        table = tables.keys.c
        found = await connection.execute(select(table.id).where(table.role == "application").limit(1))
        return found.first() is not None


async def note_use(database: Database, used: Mapping[str, datetime]) -> None:
    """Writes when keys were last used, by key id. No act: it is not audited."""
    async with database.writing() as connection:
        column = tables.keys.c.last_used_at
        for key_id, at in sorted(used.items()):
            # Another replica may have written a later time.
            await connection.execute(
                update(tables.keys)
                .where(tables.keys.c.id == key_id, or_(column.is_(None), column < at))
                .values(last_used_at=at)
            )


def _check_limits(label: str, limits: KeyLimits, now: datetime) -> None:
    if not label.strip() or len(label) > MAX_LABEL_CHARACTERS:
        raise RequestError(
            f"`label` must have 1 to {MAX_LABEL_CHARACTERS} characters.", param="label", code="invalid_key"
        )
    for field in ("requests_per_minute", "concurrency"):
        number = getattr(limits, field)
        if number is not None and number < 1:
            raise RequestError(f"`{field}` must be at least 1.", param=field, code="invalid_key")
    if limits.expires_at is not None and (limits.expires_at.tzinfo is None or limits.expires_at <= now):
        raise RequestError(
            "`expires_at` must be in the future and have a time zone.", param="expires_at", code="invalid_key"
        )


def _key_record(row: Row[Any]) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        role=row.role,
        prefix=row.prefix,
        label=row.label,
        limits=KeyLimits(
            None if row.cultures is None else frozenset(row.cultures),
            None if row.axes is None else frozenset(row.axes),
            row.requests_per_minute,
            row.concurrency,
            row.expires_at,
        ),
        created_at=row.created_at,
        created_by=row.created_by,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )
