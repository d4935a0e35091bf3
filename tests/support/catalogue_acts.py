"""Versions to act on, and what must hold in the database after any sequence of acts."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any

from sqlalchemy import select

from steer_server.catalogue import acts, aliases, tables, views
from steer_server.catalogue.database import Database
from steer_server.catalogue.records import Actor, NewVersion, VersionRecord
from steer_server.catalogue.states import State

OPERATOR = Actor("key-1", "operator", "192.0.2.7")


def new_version(
    name: str = "alpha", version: str = "1.0", *, content: str = "", **manifest: Any
) -> NewVersion:
    manifest = {"culture": {"id": name, "countries": []}, "axes": [], "head": None, **manifest}
    digest = hashlib.sha256(f"{name} {version} {content}".encode()).hexdigest()
    return NewVersion(digest, name, version, "lora", manifest, 1234)


async def add_probed(database: Database, new: NewVersion) -> str:
    """Its digest."""
    await acts.add_version(database, OPERATOR, new)
    await acts.set_state(database, OPERATOR, new.digest, State.VALIDATED)
    await acts.set_state(database, OPERATOR, new.digest, State.PROBED)
    return new.digest


async def add_active(database: Database, new: NewVersion) -> str:
    digest = await add_probed(database, new)
    await aliases.activate(database, OPERATOR, new.name, digest)
    return digest


async def version_of(database: Database, digest: str) -> VersionRecord:
    return (await views.read(database)).versions[digest]


ACTS_FOR_REPLICAS = {
    "activate",
    "rollback",
    "deactivate",
    "quarantine",
    "remove",
    "create_key",
    "revoke_key",
}


async def assert_consistent(database: Database) -> None:
    """Aliases, states, history, audit and revision agree with each other."""
    now = await views.read(database)
    active = {v.name: v.digest for v in now.versions.values() if v.state is State.ACTIVE}
    assert active == {name: digest for name, digest in now.aliases.items() if digest is not None}
    for name, digest in now.aliases.items():
        moves = await views.history(database, name)
        assert moves[-1].digest == digest
        assert all(later.previous == earlier.digest for earlier, later in pairwise(moves))
    async with database.reading() as connection:
        rows = (await connection.execute(select(tables.audit).order_by(tables.audit.c.id))).all()
        num_moves = len((await connection.execute(select(tables.alias_history.c.id))).all())
    done = [row for row in rows if row.outcome == "done"]
    assert now.revision == sum(row.action in ACTS_FOR_REPLICAS for row in done)
    moving = ("activate", "rollback", "deactivate")
    quarantined_active = num_moves - sum(row.action in moving for row in done)
    assert 0 <= quarantined_active <= sum(row.action == "quarantine" for row in done)
    added = {row.digest for row in done if row.action == "add"}
    assert set(now.versions) <= added
