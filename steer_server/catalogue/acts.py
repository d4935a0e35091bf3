"""The acts on one version: add, change its state, quarantine, release, remove.

Each is one transaction with its audit row, also when it is refused. Each may be tried again after a
DatabaseError: what was done already is then `unchanged`, or refused as no longer allowed. The acts that move
a name to another version are in `aliases.py`.
"""

from __future__ import annotations

from sqlalchemy import delete, insert, select

from steer_server.catalogue import tables
from steer_server.catalogue.acting import acting, become, version_of_act
from steer_server.catalogue.aliases import clear_alias
from steer_server.catalogue.database import Database
from steer_server.catalogue.records import Actor, NewVersion, Outcome, VersionRecord
from steer_server.catalogue.states import State
from steer_server.catalogue.views import version_record
from steer_server.errors import ConflictError


async def add_version(database: Database, actor: Actor, new: NewVersion) -> tuple[VersionRecord, bool]:
    """The version's record and whether it is new; a new one is `staged`. The same content again is the record
    that is there, in whatever state.

    Raises: ConflictError `version_taken`: this name and version is, or when it was served once was, other
        content.
    """
    async with acting(database, actor, "add", name=new.name, version=new.version, digest=new.digest) as act:
        table = tables.versions.c
        rows = await act.connection.execute(
            select(tables.versions).where(
                (table.digest == new.digest) | ((table.name == new.name) & (table.version == new.version))
            )
        )
        for row in rows:
            if row.digest == new.digest:
                act.outcome = "unchanged"
                return version_record(row), False
            raise _version_taken(new, row.digest)
        moves = tables.alias_history.c
        served_before = await act.connection.scalar(
            select(moves.digest)
            .where(moves.name == new.name, moves.version == new.version, moves.digest != new.digest)
            .limit(1)
        )
        if served_before is not None:
            raise _version_taken(new, served_before)
        staged = VersionRecord(
            digest=new.digest,
            name=new.name,
            version=new.version,
            kind=new.kind,
            state=State.STAGED,
            reason="",
            detail="",
            manifest=new.manifest,
            size_bytes=new.size_bytes,
            signature=new.signature,
            created_at=act.at,
            updated_at=act.at,
            pushed_by=actor.name,
        )
        await act.connection.execute(insert(tables.versions).values(vars(staged)))
        return staged, True


async def set_state(
    database: Database, actor: Actor, digest: str, to: State, *, reason: str = "", detail: str = ""
) -> VersionRecord:
    """The version in its new state. For what a server finds out by itself: validated, probed, and quarantined
    when a check failed.

    Raises:
        NotFoundError: no such version.
        ConflictError `state_conflict`: not allowed from the state that it is in now, whatever the caller
            believed: another replica was first. Active and retired follow from aliases, and are refused here.
    """
    if to is State.QUARANTINED:
        return await quarantine(database, actor, digest, reason=reason, detail=detail)
    async with acting(database, actor, f"set_{to}", digest=digest) as act:
        version = await version_of_act(act, digest)
        if to not in (State.VALIDATED, State.PROBED):
            raise ConflictError(
                f"{version.title} becomes {to} only by moving its name's alias.", code="state_conflict"
            )
        if version.state is State.QUARANTINED:
            raise ConflictError(
                f"{version.title} is quarantined; an operator must release it first.", code="state_conflict"
            )
        act.detail = _because(reason, detail)
        return await become(act, version, to, reason=reason, detail=detail)


async def quarantine(
    database: Database, actor: Actor, digest: str, *, reason: str, detail: str = ""
) -> VersionRecord:
    """The version, quarantined. If it was active its name has no active version any more.

    Raises: NotFoundError; ConflictError `state_conflict` when it is quarantined already.
    """
    async with acting(database, actor, "quarantine", digest=digest) as act:
        version = await version_of_act(act, digest)
        quarantined = await become(act, version, State.QUARANTINED, reason=reason, detail=detail)
        if version.state is State.ACTIVE:
            await clear_alias(act, version, "quarantine")
        act.detail = _because(reason, detail)
        act.concerns_replicas = True
        return quarantined


async def release(database: Database, actor: Actor, digest: str, *, reason: str = "") -> VersionRecord:
    """The version out of quarantine. It is `validated`, and must be probed before it can be active.

    Raises: NotFoundError; ConflictError `state_conflict` when it is not quarantined.
    """
    async with acting(database, actor, "release", digest=digest) as act:
        version = await version_of_act(act, digest)
        if version.state is not State.QUARANTINED:
            raise ConflictError(
                f"{version.title} is {version.state}, not quarantined.", code="state_conflict"
            )
        act.detail = reason
        return await become(act, version, State.VALIDATED, reason=reason)


async def remove(database: Database, actor: Actor, digest: str) -> VersionRecord:
    """What the version was. Its row is gone; audit and alias history keep its name, version and digest.

    Files are deleted after this and not before: a kill between leaves files without a row, never the reverse.
    A quarantine goes with the row: whoever may push may push the same content again, to be checked anew.

    Raises: NotFoundError; ConflictError `adapter_active` while it is active.
    """
    async with acting(database, actor, "remove", digest=digest) as act:
        version = await version_of_act(act, digest)
        if version.state is State.ACTIVE:
            raise ConflictError(
                f"{version.title} is active; deactivate it or activate another version first.",
                code="adapter_active",
            )
        await act.connection.execute(delete(tables.versions).where(tables.versions.c.digest == digest))
        act.concerns_replicas = True
        return version


async def record(
    database: Database,
    actor: Actor,
    action: str,
    outcome: Outcome,
    *,
    name: str | None = None,
    version: str | None = None,
    digest: str | None = None,
    detail: str = "",
) -> None:
    """One audit row for what happened outside the database, such as a push whose files were refused."""
    async with acting(database, actor, action, name=name, version=version, digest=digest) as act:
        act.outcome, act.detail = outcome, detail


def _because(reason: str, detail: str) -> str:
    return ": ".join(part for part in (reason, detail) if part)


def _version_taken(new: NewVersion, digest: str) -> ConflictError:
    return ConflictError(
        f"{new.name}@{new.version} is taken by other content (its digest begins {digest[:12]}, this one's "
        f"{new.digest[:12]}). Versions never change: push this as a new version.",
        code="version_taken",
    )
