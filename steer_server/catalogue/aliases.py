"""The acts on a name: which of its versions is active. Activate, roll back, deactivate.

A name is an alias that moves; every move is kept. Each act is one transaction with its audit row, also when
it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sqlalchemy import insert, select, update

from steer_server.catalogue import tables
from steer_server.catalogue.acting import Act, acting, become, version_of_act
from steer_server.catalogue.database import Database
from steer_server.catalogue.records import Actor, AliasMove, VersionRecord
from steer_server.catalogue.states import ACTIVATABLE, State, check_transition
from steer_server.catalogue.views import moves_of, read_version, version_record
from steer_server.errors import ConflictError, NotFoundError


async def activate(database: Database, actor: Actor, name: str, digest: str) -> VersionRecord:
    """The version, active. The one that was active is retired. Active already: unchanged.

    Raises:
        NotFoundError: the name has no version with this digest.
        ConflictError: `state_conflict` unless it is probed or retired; `culture_taken`, `axis_taken`,
            `head_taken` or `prompter_taken` when an active version of another name has the same.
    """
    async with acting(database, actor, "activate", name=name, digest=digest) as act:
        version = await version_of_act(act, digest)
        if version.name != name:
            raise NotFoundError(f"{version.title} is not a version of {name}.", code="adapter_not_found")
        if version.state is State.ACTIVE:
            act.outcome = "unchanged"
            return version
        # Before anything is said about cultures that are taken.
        check_transition(version.title, version.state, State.ACTIVE)
        return await _move_alias(act, version, "activate")


async def rollback(database: Database, actor: Actor, name: str) -> VersionRecord:
    """The version that was active before and can be again; it is active now. See `rollback_target`.

    Raises: NotFoundError for a name that never was active; ConflictError `nothing_to_roll_back_to`, or
        `culture_taken` and so on as `activate`.
    """
    async with acting(database, actor, "rollback", name=name) as act:
        moves = await moves_of(act.connection, name)
        if not moves:
            raise NotFoundError(f"No version of {name} was ever active.", code="adapter_not_found")
        rows = await act.connection.execute(select(tables.versions).where(tables.versions.c.name == name))
        versions = {row.digest: version_record(row) for row in rows}
        target = rollback_target(
            moves, lambda digest: digest in versions and versions[digest].state in ACTIVATABLE
        )
        if target is None:
            raise ConflictError(
                f"{name} has no earlier version that can be active: each was quarantined, removed, or rolled "
                "back from.",
                code="nothing_to_roll_back_to",
            )
        act.version, act.digest = versions[target].version, target
        return await _move_alias(act, versions[target], "rollback")


async def deactivate(database: Database, actor: Actor, name: str) -> VersionRecord | None:
    """The version that was active, retired; None when none was, and nothing changes.

    Raises: NotFoundError for a name that never was active.
    """
    async with acting(database, actor, "deactivate", name=name) as act:
        aliases = await act.connection.execute(select(tables.aliases).where(tables.aliases.c.name == name))
        alias = aliases.one_or_none()
        if alias is None:
            raise NotFoundError(f"No version of {name} was ever active.", code="adapter_not_found")
        if alias.digest is None:
            act.outcome = "unchanged"
            return None
        version = await version_of_act(act, alias.digest)
        await clear_alias(act, version, "deactivate")
        act.concerns_replicas = True
        return await become(act, version, State.RETIRED)


def rollback_target(moves: Iterable[AliasMove], is_usable: Callable[[str], bool]) -> str | None:
    """The digest that rolling back leads to, or None.

    Semantics: activations are pushed on a stack; rolling back to d pops everything above d, so that rolling
    back twice goes two versions back and never forward to what was rolled back from. The target is the
    topmost entry that is usable and not active now; the active one is not usable in this sense.

    Args:
        moves: one name's history, oldest first.
        is_usable: whether a digest could become active now.
    """
    stack: list[str] = []
    for move in moves:
        if move.digest is None:
            continue
        if move.action == "rollback":
            while stack and stack[-1] != move.digest:
                stack.pop()
        if not stack or stack[-1] != move.digest:
            stack.append(move.digest)
    return next((digest for digest in reversed(stack) if is_usable(digest)), None)


def claims(manifest: Mapping[str, Any]) -> set[tuple[str, str]]:
    """What only one active version may have: its culture (a reward head's is no claim), axes, head and
    prompter."""
    found = {("axis", axis["id"]) for axis in manifest.get("axes") or ()}
    if manifest.get("head"):
        found.add(("head", manifest["head"]))
    elif manifest.get("culture"):
        found.add(("culture", manifest["culture"]["id"]))
    if manifest.get("prompter"):
        found.add(("prompter", manifest["prompter"]["id"]))
    return found


async def clear_alias(act: Act, version: VersionRecord, action: str) -> None:
    """The version's name points at nothing. The caller gives the version its new state."""
    await act.connection.execute(
        update(tables.aliases)
        .where(tables.aliases.c.name == version.name, tables.aliases.c.digest == version.digest)
        .values(digest=None, moved_at=act.at)
    )
    await _note_move(act, version.name, version.digest, None, action)


async def _move_alias(act: Act, version: VersionRecord, action: str) -> VersionRecord:
    await _refuse_taken_claims(act, version)
    name = version.name
    aliases = await act.connection.execute(select(tables.aliases).where(tables.aliases.c.name == name))
    alias = aliases.one_or_none()
    if alias is None:
        await act.connection.execute(
            insert(tables.aliases).values(name=name, digest=version.digest, moved_at=act.at)
        )
    else:
        if alias.digest is not None:
            # First: the database allows one active version of a name at any time.
            await become(act, await read_version(act.connection, alias.digest), State.RETIRED)
        await act.connection.execute(
            update(tables.aliases)
            .where(tables.aliases.c.name == name)
            .values(digest=version.digest, moved_at=act.at)
        )
    await _note_move(act, name, None if alias is None else alias.digest, version, action)
    act.concerns_replicas = True
    return await become(act, version, State.ACTIVE)


async def _refuse_taken_claims(act: Act, version: VersionRecord) -> None:
    ours = claims(version.manifest)
    others = await act.connection.execute(
        select(tables.versions).where(
            tables.versions.c.state == State.ACTIVE, tables.versions.c.name != version.name
        )
    )
    for row in others:
        for kind, claimed in sorted(ours & claims(row.manifest)):
            raise ConflictError(
                f"{kind} {claimed!r} of {version.title} is in {row.name}@{row.version}, which is active.",
                code=f"{kind}_taken",
            )


async def _note_move(
    act: Act, name: str, previous: str | None, version: VersionRecord | None, action: str
) -> None:
    await act.connection.execute(
        insert(tables.alias_history).values(
            name=name,
            digest=version and version.digest,
            previous=previous,
            version=version and version.version,
            action=action,
            actor=act.actor.name,
            at=act.at,
        )
    )
