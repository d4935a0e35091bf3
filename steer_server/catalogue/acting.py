"""The frame of every act on the catalogue's database, and the steps that acts share.

Whatever is changed is changed in one transaction that also writes the audit, so a kill at any moment leaves
either all of an act or nothing of it. All acts are done one after another: each begins by locking the one row
of `revision` (on SQLite, the file). They are rare and short, and what each checks is then still so when it
writes.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from steer_server.catalogue import tables
from steer_server.catalogue.database import Database
from steer_server.catalogue.records import Actor, Outcome, VersionRecord
from steer_server.catalogue.states import State, check_transition
from steer_server.catalogue.views import read_version
from steer_server.errors import SteerError

logger = logging.getLogger("steer_server.catalogue")

CHANNEL = "steer_catalogue"
"""PostgreSQL's NOTIFY channel; the payload is the new revision."""

MAX_AUDIT_NAME_CHARACTERS = 256
MAX_AUDIT_DETAIL_CHARACTERS = 4096


@dataclass
class Act:
    """One act while it is done. Its author fills in what the audit will say."""

    connection: AsyncConnection
    at: datetime
    actor: Actor
    action: str
    name: str | None = None
    version: str | None = None
    digest: str | None = None
    outcome: Outcome = "done"
    detail: str = ""
    concerns_replicas: bool = False
    """Set it when replicas must serve something else afterwards: the revision grows with the act."""


@asynccontextmanager
async def acting(
    database: Database,
    actor: Actor,
    action: str,
    *,
    name: str | None = None,
    version: str | None = None,
    digest: str | None = None,
) -> AsyncIterator[Act]:
    """One act: what is written inside, its audit row and the revision, in one transaction, alone.

    A SteerError raised inside undoes what was written, is audited as refused, and is raised again.

    Raises: DatabaseError; whether the act was done is then unknown, and trying again is safe.
    """
    refused: SteerError | None = None
    async with database.writing() as connection:
        await connection.execute(select(tables.revision.c.value).with_for_update())
        act = Act(connection, tables.now(), actor, action, name, version, digest)
        try:
            async with connection.begin_nested():
                yield act
                if act.concerns_replicas:
                    await _next_revision(connection)
        except SteerError as error:
            refused = error
            act.outcome, act.detail = "refused", str(error)
        await connection.execute(insert(tables.audit).values(_audit_row(act)))
    _log(act)
    if refused is not None:
        raise refused


async def version_of_act(act: Act, digest: str) -> VersionRecord:
    """The version that an act is about, which is noted in its audit. Raises: NotFoundError."""
    record = await read_version(act.connection, digest)
    act.name, act.version, act.digest = record.name, record.version, record.digest
    return record


async def become(
    act: Act, version: VersionRecord, to: State, *, reason: str = "", detail: str = ""
) -> VersionRecord:
    """The version in its new state. Raises: ConflictError `state_conflict` when it is not allowed."""
    check_transition(version.title, version.state, to)
    await act.connection.execute(
        update(tables.versions)
        .where(tables.versions.c.digest == version.digest)
        .values(state=to, reason=reason, detail=detail, updated_at=act.at)
    )
    return replace(version, state=to, reason=reason, detail=detail, updated_at=act.at)


async def _next_revision(connection: AsyncConnection) -> None:
    column = tables.revision.c.value
    value = await connection.scalar(update(tables.revision).values(value=column + 1).returning(column))
    if connection.dialect.name == "postgresql":
        # Delivered at the commit, or never.
        await connection.execute(select(func.pg_notify(CHANNEL, str(value))))


def _log(act: Act) -> None:
    fields = {
        "action": act.action,
        "adapter": act.name,
        "version": act.version,
        "outcome": act.outcome,
        "actor": act.actor.name,
    }
    known = {name: value for name, value in fields.items() if value is not None}
    logger.info("%s: %s", act.action, act.outcome, extra=known)


def _audit_row(act: Act) -> dict[str, Any]:
    def short(text: str | None) -> str | None:
        return text and text[:MAX_AUDIT_NAME_CHARACTERS]

    return {
        "at": act.at,
        "actor": act.actor.name,
        "role": act.actor.role,
        "action": act.action,
        "name": short(act.name),
        "version": short(act.version),
        "digest": short(act.digest),
        "outcome": act.outcome,
        "detail": act.detail[:MAX_AUDIT_DETAIL_CHARACTERS],
        "remote_address": act.actor.remote_address,
    }
