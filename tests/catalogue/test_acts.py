"""Acts on the catalogue's database, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import sqlalchemy.exc
from sqlalchemy import delete, text, update

from steer_server.catalogue import acts, aliases, keys, tables, views
from steer_server.catalogue.acting import acting, version_of_act
from steer_server.catalogue.database import Database
from steer_server.catalogue.states import State
from steer_server.errors import ConflictError, NotFoundError, SteerError
from tests.support.catalogue_acts import (
    OPERATOR,
    add_active,
    add_probed,
    assert_consistent,
    new_version,
    version_of,
)

ALPHA_1, ALPHA_2, ALPHA_3 = (new_version(version=v) for v in ("1.0", "2.0", "3.0"))


async def test_a_version_goes_all_the_way(database: Database) -> None:
    record, is_new = await acts.add_version(database, OPERATOR, ALPHA_1)
    assert is_new and record.state is State.STAGED and record.pushed_by == OPERATOR.name
    assert record == await version_of(database, ALPHA_1.digest)
    assert record.created_at.utcoffset() is not None
    await acts.set_state(database, OPERATOR, ALPHA_1.digest, State.VALIDATED)
    probed = await acts.set_state(
        database, OPERATOR, ALPHA_1.digest, State.PROBED, reason="probe", detail="0.4 nats"
    )
    assert (probed.reason, probed.detail) == ("probe", "0.4 nats")
    active = await aliases.activate(database, OPERATOR, "alpha", ALPHA_1.digest)
    assert active.state is State.ACTIVE and active == await version_of(database, ALPHA_1.digest)
    retired = await aliases.deactivate(database, OPERATOR, "alpha")
    assert retired is not None and retired.state is State.RETIRED
    assert (await views.read(database)).aliases == {"alpha": None}
    await acts.remove(database, OPERATOR, ALPHA_1.digest)
    assert not (await views.read(database)).versions
    assert [move.action for move in await views.history(database, "alpha")] == ["activate", "deactivate"]
    await assert_consistent(database)


async def test_adding_the_same_content_again_changes_nothing(database: Database) -> None:
    await add_active(database, ALPHA_1)
    record, is_new = await acts.add_version(database, OPERATOR, ALPHA_1)
    assert not is_new and record.state is State.ACTIVE
    (newest,) = await views.audit(database, limit=1)
    assert (newest.action, newest.outcome) == ("add", "unchanged")


async def test_other_content_under_the_same_version_is_refused(database: Database) -> None:
    await acts.add_version(database, OPERATOR, ALPHA_1)
    other = new_version(content="other")
    with pytest.raises(ConflictError) as caught:
        await acts.add_version(database, OPERATOR, other)
    assert caught.value.code == "version_taken"
    assert caught.value.headers == {"x-should-retry": "false"}


async def test_a_label_that_was_served_never_names_other_content(database: Database) -> None:
    await add_active(database, ALPHA_1)
    await aliases.deactivate(database, OPERATOR, "alpha")
    await acts.remove(database, OPERATOR, ALPHA_1.digest)
    with pytest.raises(ConflictError, match="taken"):
        await acts.add_version(database, OPERATOR, new_version(content="other"))
    record, is_new = await acts.add_version(database, OPERATOR, ALPHA_1)
    assert is_new and record.state is State.STAGED


async def test_a_label_that_was_never_served_is_free_after_removal(database: Database) -> None:
    await acts.add_version(database, OPERATOR, ALPHA_1)
    await acts.remove(database, OPERATOR, ALPHA_1.digest)
    assert (await acts.add_version(database, OPERATOR, new_version(content="mended")))[1]


@pytest.mark.parametrize("to", [State.ACTIVE, State.RETIRED, State.DRAINING])
async def test_active_and_retired_follow_from_aliases_only(database: Database, to: State) -> None:
    digest = await add_probed(database, ALPHA_1)
    with pytest.raises(ConflictError) as caught:
        await acts.set_state(database, OPERATOR, digest, to)
    assert caught.value.code == "state_conflict"


async def test_a_version_that_was_not_probed_is_not_activated(database: Database) -> None:
    await acts.add_version(database, OPERATOR, ALPHA_1)
    for _ in range(2):
        with pytest.raises(ConflictError, match="can become"):
            await aliases.activate(database, OPERATOR, "alpha", ALPHA_1.digest)
        if (await version_of(database, ALPHA_1.digest)).state is State.STAGED:
            await acts.set_state(database, OPERATOR, ALPHA_1.digest, State.VALIDATED)
    assert (await views.read(database)).revision == 0


async def test_activating_retires_what_was_active(database: Database) -> None:
    first, second = await add_active(database, ALPHA_1), await add_active(database, ALPHA_2)
    now = await views.read(database)
    assert now.aliases == {"alpha": second}
    assert now.versions[first].state is State.RETIRED
    assert now.revision == 2
    await aliases.activate(database, OPERATOR, "alpha", second)
    assert (await views.read(database)).revision == 2
    await assert_consistent(database)


async def test_a_digest_is_activated_under_its_own_name_only(database: Database) -> None:
    digest = await add_probed(database, ALPHA_1)
    with pytest.raises(NotFoundError):
        await aliases.activate(database, OPERATOR, "beta", digest)


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ({"culture": {"id": "c"}}, {"culture": {"id": "c"}}, "culture_taken"),
        ({"culture": None, "axes": [{"id": "x"}]}, {"axes": [{"id": "x"}]}, "axis_taken"),
        ({"culture": {"id": "c"}, "head": "h"}, {"culture": {"id": "c"}, "head": "h"}, "head_taken"),
        ({"culture": {"id": "c"}, "head": "h"}, {"culture": {"id": "c"}}, None),
    ],
)
async def test_two_names_cannot_offer_the_same(
    database: Database, first: dict[str, object], second: dict[str, object], code: str | None
) -> None:
    await add_active(database, new_version("alpha", **first))
    digest = await add_probed(database, new_version("beta", **second))
    if code is None:
        await aliases.activate(database, OPERATOR, "beta", digest)
        return
    with pytest.raises(ConflictError) as caught:
        await aliases.activate(database, OPERATOR, "beta", digest)
    assert caught.value.code == code and "alpha@1.0" in str(caught.value)


async def test_a_new_version_may_offer_what_its_own_name_does(database: Database) -> None:
    await add_active(database, ALPHA_1)
    await add_active(database, ALPHA_2)


async def test_rolling_back_twice_goes_two_versions_back_and_never_forward(database: Database) -> None:
    digests = [await add_active(database, v) for v in (ALPHA_1, ALPHA_2, ALPHA_3)]
    assert (await aliases.rollback(database, OPERATOR, "alpha")).digest == digests[1]
    assert (await aliases.rollback(database, OPERATOR, "alpha")).digest == digests[0]
    with pytest.raises(ConflictError) as caught:
        await aliases.rollback(database, OPERATOR, "alpha")
    assert caught.value.code == "nothing_to_roll_back_to"
    assert (await views.read(database)).aliases == {"alpha": digests[0]}
    await aliases.activate(database, OPERATOR, "alpha", digests[2])
    assert (await aliases.rollback(database, OPERATOR, "alpha")).digest == digests[0]
    await assert_consistent(database)


async def test_rollback_skips_quarantined_and_removed_versions(database: Database) -> None:
    versions = [new_version(version=str(n)) for n in range(4)]
    digests = [await add_active(database, v) for v in versions]
    await acts.remove(database, OPERATOR, digests[2])
    await acts.quarantine(database, OPERATOR, digests[1], reason="harmful")
    assert (await aliases.rollback(database, OPERATOR, "alpha")).digest == digests[0]
    await assert_consistent(database)


async def test_rollback_brings_back_what_was_deactivated(database: Database) -> None:
    await add_active(database, ALPHA_1)
    second = await add_active(database, ALPHA_2)
    await aliases.deactivate(database, OPERATOR, "alpha")
    assert (await aliases.rollback(database, OPERATOR, "alpha")).digest == second


async def test_rollback_after_quarantine_goes_to_the_version_before(database: Database) -> None:
    first, second = await add_active(database, ALPHA_1), await add_active(database, ALPHA_2)
    await acts.quarantine(database, OPERATOR, second, reason="harmful", detail="seen in production")
    now = await views.read(database)
    assert now.aliases == {"alpha": None} and now.versions[second].reason == "harmful"
    assert (await aliases.rollback(database, OPERATOR, "alpha")).digest == first
    await assert_consistent(database)


async def test_a_quarantined_version_comes_back_only_through_release_and_probe(database: Database) -> None:
    digest = await add_active(database, ALPHA_1)
    await acts.quarantine(database, OPERATOR, digest, reason="harmful")
    for refused in (
        aliases.activate(database, OPERATOR, "alpha", digest),
        acts.set_state(database, OPERATOR, digest, State.VALIDATED),
        acts.set_state(database, OPERATOR, digest, State.PROBED),
        acts.quarantine(database, OPERATOR, digest, reason="again"),
    ):
        with pytest.raises(ConflictError, match="quarantined"):
            await refused
    released = await acts.release(database, OPERATOR, digest, reason="a mistake")
    assert (released.state, released.reason) == (State.VALIDATED, "a mistake")
    with pytest.raises(ConflictError):
        await acts.release(database, OPERATOR, digest)
    await acts.set_state(database, OPERATOR, digest, State.PROBED)
    await aliases.activate(database, OPERATOR, "alpha", digest)
    await assert_consistent(database)


async def test_a_failed_check_quarantines_through_set_state(database: Database) -> None:
    digest = await add_active(database, ALPHA_1)
    record = await acts.set_state(
        database, OPERATOR, digest, State.QUARANTINED, reason="probe_no_effect", detail="equals base"
    )
    assert record.state is State.QUARANTINED
    assert (await views.read(database)).aliases == {"alpha": None}
    await assert_consistent(database)


async def test_an_active_version_is_not_removed(database: Database) -> None:
    digest = await add_active(database, ALPHA_1)
    with pytest.raises(ConflictError) as caught:
        await acts.remove(database, OPERATOR, digest)
    assert caught.value.code == "adapter_active"
    assert digest in (await views.read(database)).versions


async def test_unknown_names_and_digests_are_not_found(database: Database) -> None:
    for unknown in (
        aliases.activate(database, OPERATOR, "alpha", "f" * 64),
        aliases.rollback(database, OPERATOR, "alpha"),
        aliases.deactivate(database, OPERATOR, "alpha"),
        acts.remove(database, OPERATOR, "f" * 64),
        acts.release(database, OPERATOR, "f" * 64),
        acts.quarantine(database, OPERATOR, "f" * 64, reason="x"),
        acts.set_state(database, OPERATOR, "f" * 64, State.PROBED),
        keys.revoke_key(database, OPERATOR, "key-0"),
        views.find_version(database, "alpha", "1.0"),
    ):
        with pytest.raises(NotFoundError):
            await unknown


async def test_deactivating_twice_changes_nothing_the_second_time(database: Database) -> None:
    await add_active(database, ALPHA_1)
    await aliases.deactivate(database, OPERATOR, "alpha")
    revision = (await views.read(database)).revision
    assert await aliases.deactivate(database, OPERATOR, "alpha") is None
    assert (await views.read(database)).revision == revision


async def test_every_act_is_audited_whether_done_unchanged_or_refused(database: Database) -> None:
    digest = await add_active(database, ALPHA_1)
    await aliases.activate(database, OPERATOR, "alpha", digest)
    await acts.record(database, OPERATOR, "push", "refused", name="bad", detail="not_finite: lora_A")
    key, secret = await keys.create_key(database, OPERATOR, "application", "a demo")
    refused = [
        acts.add_version(database, OPERATOR, new_version(content="other")),
        acts.remove(database, OPERATOR, digest),
        acts.release(database, OPERATOR, digest),
        aliases.rollback(database, OPERATOR, "alpha"),
        aliases.activate(database, OPERATOR, "beta", digest),
        keys.revoke_key(database, OPERATOR, "key-0"),
    ]
    for act in refused:
        with pytest.raises(SteerError):
            await act
    await acts.quarantine(database, OPERATOR, digest, reason="harmful", detail="d")
    await acts.release(database, OPERATOR, digest)
    await keys.revoke_key(database, OPERATOR, key.id)
    entries = list(reversed(await views.audit(database)))
    assert [(e.action, e.outcome) for e in entries] == [
        ("add", "done"),
        ("set_validated", "done"),
        ("set_probed", "done"),
        ("activate", "done"),
        ("activate", "unchanged"),
        ("push", "refused"),
        ("create_key", "done"),
        ("add", "refused"),
        ("remove", "refused"),
        ("release", "refused"),
        ("rollback", "refused"),
        ("activate", "refused"),
        ("revoke_key", "refused"),
        ("quarantine", "done"),
        ("release", "done"),
        ("revoke_key", "done"),
    ]
    for entry in entries:
        assert (entry.actor, entry.role, entry.remote_address) == ("key-1", "operator", "192.0.2.7")
        assert entry.outcome != "refused" or entry.detail
        assert secret not in str(entry)
    about_alpha = [e for e in entries if e.action in ("activate", "remove", "quarantine")]
    assert {(e.name, e.version, e.digest) for e in about_alpha} == {("alpha", "1.0", digest)}
    await assert_consistent(database)


async def test_the_audit_is_read_by_filter_and_page(database: Database) -> None:
    await add_active(database, ALPHA_1)
    await add_active(database, new_version("beta"))
    assert {e.name for e in await views.audit(database, name="beta")} == {"beta"}
    assert len(await views.audit(database, action="activate")) == 2
    assert not await views.audit(database, outcome="refused")
    assert not await views.audit(database, actor="somebody")
    first = await views.audit(database, limit=3)
    rest = await views.audit(database, before_id=first[-1].id)
    assert [e.id for e in first + rest] == [e.id for e in await views.audit(database)]


async def test_the_audit_cannot_be_changed(database: Database) -> None:
    await add_active(database, ALPHA_1)
    for statement in (delete(tables.audit), update(tables.audit).values(actor="nobody")):
        with pytest.raises(sqlalchemy.exc.DBAPIError, match="append-only"):
            async with database.writing() as connection:
                await connection.execute(statement)
    assert len(await views.audit(database)) == 4


async def test_text_from_clients_cannot_break_an_act(database: Database) -> None:
    for name in ("nul\0", "lone \ud800", "x" * 100_000, "'; DROP TABLE audit; --"):
        with pytest.raises(NotFoundError):
            await aliases.rollback(database, replace(OPERATOR, name=name), name)
        await acts.record(database, OPERATOR, "push", "refused", name=name, detail=name)
    assert len(await views.audit(database, outcome="refused")) == 8
    assert not await views.audit(database, name="nul\0", actor="\ud800")


async def test_an_act_that_fails_half_way_leaves_nothing_but_its_audit(database: Database) -> None:
    digest = await add_active(database, ALPHA_1)
    before = await views.read(database)
    with pytest.raises(ConflictError):
        async with acting(database, OPERATOR, "test", digest=digest) as act:
            version = await version_of_act(act, digest)
            await aliases.clear_alias(act, version, "test")
            act.concerns_replicas = True
            raise ConflictError("no")
    with pytest.raises(ZeroDivisionError):
        async with acting(database, OPERATOR, "test", digest=digest) as act:
            await aliases.clear_alias(act, version, "test")
            _ = 1 / 0
    assert await views.read(database) == before
    assert [e.outcome for e in await views.audit(database, action="test")] == ["refused"]


async def test_a_cancelled_act_leaves_nothing_and_the_next_one_works(database: Database) -> None:
    digest = await add_active(database, ALPHA_1)
    before = await views.read(database)
    entered = asyncio.Event()

    async def hang() -> None:
        async with acting(database, OPERATOR, "test") as act:
            version = await version_of_act(act, digest)
            await aliases.clear_alias(act, version, "test")
            entered.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(hang())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await views.read(database) == before
    await aliases.deactivate(database, OPERATOR, "alpha")
    await assert_consistent(database)


async def test_the_database_itself_refuses_two_active_versions_of_a_name(database: Database) -> None:
    await add_active(database, ALPHA_1)
    second = await add_probed(database, ALPHA_2)
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        async with database.writing() as connection:
            await connection.execute(
                update(tables.versions).where(tables.versions.c.digest == second).values(state="active")
            )
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        async with database.writing() as connection:
            await connection.execute(text("UPDATE versions SET state = 'draining'"))


async def test_a_reading_is_of_one_moment(database: Database) -> None:
    first = await add_active(database, ALPHA_1)
    second = await add_probed(database, ALPHA_2)
    async with database.reading() as connection:
        assert (await views.moves_of(connection, "alpha"))[-1].digest == first
        await aliases.activate(database, OPERATOR, "alpha", second)
        assert (await views.moves_of(connection, "alpha"))[-1].digest == first
        assert (await views.read_version(connection, second)).state is State.PROBED
    assert (await views.find_version(database, "alpha", "2.0")).state is State.ACTIVE


async def test_two_connections_race_and_one_wins_each_time(database: Database, database_url: str) -> None:
    other = await Database.open(database_url)
    try:
        for n in range(10):
            digest = await add_probed(database, new_version(version=str(n)))
            results = await asyncio.gather(
                *(acts.quarantine(db, OPERATOR, digest, reason="race") for db in (database, other) * 2),
                return_exceptions=True,
            )
            assert sorted(type(result).__name__ for result in results) == ["ConflictError"] * 3 + [
                "VersionRecord"
            ]
        digests = [await add_probed(database, new_version("beta", str(n))) for n in range(6)]
        await asyncio.gather(
            *(
                aliases.activate(db, OPERATOR, "beta", d)
                for db, d in zip((database, other) * 3, digests, strict=True)
            )
        )
        await assert_consistent(database)
        assert len(await views.history(other, "beta")) == 6
    finally:
        await other.close()
