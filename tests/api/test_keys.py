"""Who may ask for what, by bearer token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from starlette.requests import HTTPConnection

from steer_server.api.keys import FORWARDED, Caller, KeyGate
from steer_server.api.remembered import FRESH_SECONDS
from steer_server.catalogue import keys
from steer_server.catalogue.database import Database
from steer_server.catalogue.records import KeyLimits, KeyRole
from steer_server.catalogue.tables import now
from steer_server.errors import AuthenticationError, DatabaseError, DeniedError, RateLimitError
from steer_server.steering.spec import parse_spec
from tests.support.catalogue_acts import OPERATOR
from tests.support.postgres import PostgreSQL

LOOPBACK, ELSEWHERE = "127.0.0.1", "192.0.2.9"


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(f"sqlite:///{tmp_path / 'catalogue.db'}")
    yield opened
    await opened.close()


def request(token: str | None = None, address: str | None = ELSEWHERE, **headers: str) -> HTTPConnection:
    headers = {"host": "localhost:8000" if address != ELSEWHERE else "steer.example"} | headers
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return HTTPConnection({"type": "http", "headers": raw, "client": address and (address, 50_000)})


async def caller_with(
    database: Database, gate: KeyGate, limits: KeyLimits | None = None, role: KeyRole = "application"
) -> Caller:
    _, secret = await keys.create_key(database, OPERATOR, role, "a demo", limits)
    gate.forget()
    return await gate.application(request(secret))


async def test_without_any_key_applications_are_not_asked_for_one(database: Database) -> None:
    gate = KeyGate(database)
    for token in (None, "EMPTY", "sk-something"):
        caller = await gate.application(request(token))
        assert caller.actor.name == "anonymous" and caller.actor.remote_address == ELSEWHERE


async def test_from_the_first_application_key_on_a_key_is_asked_for(database: Database) -> None:
    gate = KeyGate(database)
    await gate.application(request())
    caller = await caller_with(database, gate)
    assert caller.key is not None and caller.actor.name == caller.key.id
    for token in (None, "EMPTY", "ss-app-" + "x" * 43, "ss-op-\N{SNOWMAN}".encode().decode("latin-1")):
        with pytest.raises(AuthenticationError) as caught:
            await gate.application(request(token))
        error = caught.value
        assert (error.http_status, error.code) == (401, "invalid_api_key")
        assert error.headers == {"WWW-Authenticate": "Bearer"}


async def test_the_static_application_key_is_asked_for_and_has_no_limits(database: Database) -> None:
    gate = KeyGate(database, api_key=SecretStr("static"))
    caller = await gate.application(request("static"))
    assert caller.limits == KeyLimits() and caller.actor.role == "application"
    for token in (None, "static2", "statiC"):
        with pytest.raises(AuthenticationError):
            await gate.application(request(token))


async def test_revoked_and_expired_keys_are_refused_even_where_none_is_needed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = KeyGate(database)
    key, secret = await keys.create_key(database, OPERATOR, "operator", "a person")
    assert (await gate.operator(request(secret))).actor.name == key.id
    await keys.revoke_key(database, OPERATOR, key.id)
    gate.forget()
    for ask in (gate.application, gate.operator):
        with pytest.raises(AuthenticationError, match="revoked"):
            await ask(request(secret, LOOPBACK))
    expiry = now() + timedelta(hours=1)
    limits = KeyLimits(expires_at=expiry)
    _, secret = await keys.create_key(database, OPERATOR, "application", "short", limits)
    await gate.application(request(secret))
    monkeypatch.setattr("steer_server.api.keys.now", lambda: expiry)
    with pytest.raises(AuthenticationError, match="expired"):
        await gate.application(request(secret))


async def test_revoking_takes_effect_at_the_next_revision(database: Database) -> None:
    gate = KeyGate(database)
    key, secret = await keys.create_key(database, OPERATOR, "application", "a demo")
    await gate.application(request(secret))
    await keys.revoke_key(database, OPERATOR, key.id)
    await gate.application(request(secret))
    gate.forget()
    with pytest.raises(AuthenticationError):
        await gate.application(request(secret))


async def test_revoking_takes_effect_without_any_revision_after_seconds(database: Database) -> None:
    seconds = 100.0
    gate = KeyGate(database, clock=lambda: seconds)
    key, secret = await keys.create_key(database, OPERATOR, "application", "a demo")
    await gate.application(request(secret))
    await keys.revoke_key(database, OPERATOR, key.id)
    seconds += 1
    await gate.application(request(secret))
    seconds += FRESH_SECONDS
    with pytest.raises(AuthenticationError):
        await gate.application(request(secret))


async def test_operators_need_an_operator_key(database: Database) -> None:
    gate = KeyGate(database, admin_key=SecretStr("admin"), api_key=SecretStr("app"))
    assert (await gate.operator(request("admin"))).actor.role == "operator"
    _, operator = await keys.create_key(database, OPERATOR, "operator", "a person")
    assert (await gate.operator(request(operator))).key is not None
    _, application = await keys.create_key(database, OPERATOR, "application", "a demo")
    for token in ("app", application):
        with pytest.raises(DeniedError) as caught:
            await gate.operator(request(token))
        assert (caught.value.http_status, caught.value.code) == (403, "operator_key_required")
    for token in (None, "wrong"):
        for address in (LOOPBACK, ELSEWHERE):
            with pytest.raises(AuthenticationError):
                await gate.operator(request(token, address))
    assert (await gate.application(request("admin"))).actor.role == "operator"


@pytest.mark.parametrize("address", [LOOPBACK, "127.0.0.2", "::1", "::ffff:127.0.0.1"])
async def test_without_an_admin_key_this_machine_administers(database: Database, address: str) -> None:
    gate = KeyGate(database)
    for headers in ({}, {"host": "[::1]:8000"}, {"host": "127.0.0.1"}, {"origin": "http://localhost:8000"}):
        caller = await gate.operator(request(None, address, **headers))
        assert caller.actor.role == "operator" and caller.actor.remote_address == address
    assert (await gate.operator(request("EMPTY", address))).key is None


@pytest.mark.parametrize(
    ("address", "headers"),
    [
        (ELSEWHERE, {"host": "localhost"}),
        (None, {}),
        ("localhost.example", {}),
        (LOOPBACK, {"host": "attacker.example"}),
        (LOOPBACK, {"host": "localhost.attacker.example"}),
        (LOOPBACK, {"host": ""}),
        (LOOPBACK, {"host": "[::1"}),
        (LOOPBACK, {"origin": "https://attacker.example"}),
        (LOOPBACK, {"origin": "null"}),
        (LOOPBACK, {"origin": "http://["}),
        *((LOOPBACK, {name: "192.0.2.1"}) for name in FORWARDED),
    ],
)
async def test_without_an_admin_key_nobody_else_does(
    database: Database, address: str | None, headers: dict[str, str]
) -> None:
    with pytest.raises(AuthenticationError, match="STEER_ADMIN_KEY"):
        await KeyGate(database).operator(request(None, address, **headers))


async def test_a_key_uses_the_cultures_and_axes_that_it_was_given(database: Database) -> None:
    gate = KeyGate(database)
    limits = KeyLimits(cultures=frozenset({"confucian", "nordic"}), axes=frozenset())
    caller = await caller_with(database, gate, limits)
    gate.check_spec(caller, parse_spec({"cultures": {"confucian": 1, "nordic": 0.5}}))
    gate.check_spec(caller, parse_spec({"method": "none"}))
    for document, param, code in (
        ({"cultures": {"confucian": 1, "andean": 0.1}}, "steering.cultures.andean", "culture_not_allowed"),
        ({"values": {"helpful": 1}}, "steering.values.helpful", "value_not_allowed"),
    ):
        with pytest.raises(DeniedError) as caught:
            gate.check_spec(caller, parse_spec(document))
        assert (caught.value.http_status, caught.value.code) == (403, code)
        assert caught.value.body()["error"]["param"] == param
    with pytest.raises(DeniedError) as caught:
        gate.check_spec(caller, parse_spec({"values": {"helpful": 1}}), param="X-Steering")
    assert caught.value.param == "X-Steering.values.helpful"
    unlimited = await caller_with(database, gate)
    gate.check_spec(unlimited, parse_spec({"cultures": {"andean": 1}, "values": {"helpful": 1}}))


async def test_the_rate_is_limited_for_each_key_and_says_when_to_come_back(database: Database) -> None:
    gate = KeyGate(database)
    limited, other = [await caller_with(database, gate, KeyLimits(requests_per_minute=3)) for _ in range(2)]
    for _ in range(3):
        async with gate.admit(limited):
            pass
    with pytest.raises(RateLimitError) as caught:
        async with gate.admit(limited):
            pass
    error = caught.value
    assert (error.http_status, error.code) == (429, "rate_limit_exceeded")
    assert error.body()["error"]["type"] == "requests"
    assert 50 <= int(error.headers["Retry-After"]) <= 60
    async with gate.admit(other):
        pass


async def test_the_rate_holds_for_requests_that_come_together(database: Database) -> None:
    gate = KeyGate(database)
    caller = await caller_with(database, gate, KeyLimits(requests_per_minute=10))

    async def one() -> None:
        async with gate.admit(caller):
            await asyncio.sleep(0)

    results = await asyncio.gather(*(one() for _ in range(50)), return_exceptions=True)
    assert sum(result is None for result in results) == 10


async def test_places_are_limited_and_given_back_however_a_request_ends(database: Database) -> None:
    gate = KeyGate(database)
    caller = await caller_with(database, gate, KeyLimits(concurrency=2, requests_per_minute=6))
    holding = asyncio.Event()

    async def hold() -> None:
        async with gate.admit(caller):
            await holding.wait()

    tasks = [asyncio.create_task(hold()) for _ in range(2)]
    await asyncio.sleep(0.05)
    for _ in range(10):
        with pytest.raises(RateLimitError) as caught:
            async with gate.admit(caller):
                pass
        assert caught.value.code == "concurrency_limit_exceeded"
        assert caught.value.headers["Retry-After"] == "1"
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    with pytest.raises(ZeroDivisionError):
        async with gate.admit(caller):
            _ = 1 / 0
    holding.set()
    await tasks[1]
    # Those that found no place did not count against the rate.
    for _ in range(3):
        async with gate.admit(caller):
            pass
    # Nor does a request over the rate keep a place.
    for _ in range(3):
        with pytest.raises(RateLimitError, match="per minute"):
            async with gate.admit(caller):
                pass


async def test_callers_without_a_key_of_the_database_are_not_limited(database: Database) -> None:
    gate = KeyGate(database, api_key=SecretStr("static"))
    caller = await gate.application(request("static"))
    for _ in range(100):
        async with gate.admit(caller), gate.admit(caller):
            pass


async def test_uses_are_written_when_asked(database: Database) -> None:
    gate = KeyGate(database)
    caller = await caller_with(database, gate)
    assert (await keys.list_keys(database))[0].last_used_at is None
    await gate.write_uses()
    first = (await keys.list_keys(database))[0].last_used_at
    assert first is not None and caller.key is not None
    await gate.write_uses()
    assert (await keys.list_keys(database))[0].last_used_at == first


async def test_known_keys_are_served_while_the_database_is_away(postgresql: PostgreSQL) -> None:
    database = await Database.open(postgresql.new_database())
    gate = KeyGate(database)
    _, known = await keys.create_key(database, OPERATOR, "application", "known")
    _, unknown = await keys.create_key(database, OPERATOR, "application", "unknown")
    caller = await gate.application(request(known))
    with postgresql.away():
        gate.forget()
        assert await gate.application(request(known)) == caller
        with pytest.raises(DatabaseError):
            await gate.application(request(unknown))
        with pytest.raises(DatabaseError):
            await gate.write_uses()
    await gate.write_uses()
    used = {key.label: key.last_used_at for key in await keys.list_keys(database)}
    assert used["known"] is not None and used["unknown"] is None
    await database.close()
