"""Keys over HTTP: made, listed, revoked, by operators only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from steer_server.catalogue.tables import now
from steer_server.settings import Settings
from tests.support.adapters import TINY, tiny_base_model
from tests.support.administration import get, refused
from tests.support.servers import Running, app_server

LIMITS = {
    "cultures": ["amber", "blue"],
    "axes": ["helpful"],
    "requests_per_minute": 60,
    "concurrency": 4,
    "expires_at": "2999-01-01T00:00:00+00:00",
}


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Running]:
    base = tiny_base_model(folder / TINY)
    settings = Settings(
        model=base.path, served_model_name="fake", data=folder / "data", admin_key=SecretStr("admin")
    )
    async with app_server(settings, key="admin") as running:
        yield running


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    async with opened(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
async def keyless(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """A server that no key may be made on."""
    async with opened(tmp_path_factory.mktemp("keyless")) as running:
        yield running


async def create(server: Running, **body: Any) -> httpx.Response:
    async with server.http() as http:
        return await http.post("/v1/keys", json=body)


async def models(server: Running, key: str) -> httpx.Response:
    async with server.http(key) as http:
        return await http.get("/v1/models")


async def test_a_key_is_made_with_its_limits_and_its_secret_is_told_once(server: Running) -> None:
    made = await create(server, label="a demo", role="application", limits=LIMITS)
    assert made.status_code == 201 and made.headers["cache-control"] == "no-store"
    key = made.json()
    secret = key.pop("secret")
    assert key["limits"] == LIMITS and key["created_by"] == "static operator key"
    assert secret.startswith(key["prefix"]) and len(secret) > len(key["prefix"]) + 30
    assert (await models(server, secret)).status_code == 200
    listed = await get(server, "/v1/keys")
    assert [(k["id"], k["label"], k["limits"]) for k in listed["data"]] == [(key["id"], "a demo", LIMITS)]
    audit = await get(server, "/v1/audit")
    assert [a["action"] for a in audit["data"]] == ["create_key"]
    assert secret not in str(listed) + str(audit)


async def test_from_the_first_application_key_on_strangers_are_refused(server: Running) -> None:
    assert (await models(server, "")).status_code == 200
    await create(server, label="the first")
    refused(await models(server, ""), 401, "invalid_api_key")
    refused(await models(server, "something"), 401, "invalid_api_key")


async def test_a_revoked_key_is_refused_at_once(server: Running) -> None:
    made = (await create(server, label="a demo")).json()
    assert (await models(server, made["secret"])).status_code == 200
    async with server.http() as http:
        revoked = await http.delete(f"/v1/keys/{made['id']}")
        assert revoked.status_code == 200 and revoked.json()["revoked_at"]
        again = await http.delete(f"/v1/keys/{made['id']}")
        assert again.json() == revoked.json()
        refused(await http.delete("/v1/keys/key-0"), 404, "key_not_found")
    assert "revoked" in refused(await models(server, made["secret"]), 401, "invalid_api_key")["message"]


async def test_an_operator_key_administers_and_an_application_key_does_not(server: Running) -> None:
    operator = (await create(server, label="a person", role="operator")).json()
    application = (await create(server, label="a demo")).json()
    async with server.http(operator["secret"]) as http:
        made = await http.post("/v1/keys", json={"label": "by that person"})
        assert made.status_code == 201 and made.json()["created_by"] == operator["id"]
    for method, path in (("POST", "/v1/keys"), ("GET", "/v1/keys"), ("DELETE", "/v1/keys/key-0")):
        async with server.http(application["secret"]) as http:
            response = await http.request(method, path, json={"label": "x"})
        refused(response, 403, "operator_key_required")
        async with server.http("") as http:
            refused(await http.request(method, path, json={"label": "x"}), 401, "invalid_api_key")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "label"),
        ({"label": ""}, "label"),
        ({"label": " \n"}, "label"),
        ({"label": "x" * 129}, "label"),
        ({"label": 7}, "label"),
        ({"label": "x", "role": "root"}, "role"),
        ({"label": "x", "limit": {}}, "limit"),
        ({"label": "x", "limits": None}, "limits"),
        ({"label": "x", "limits": {"culture": ["amber"]}}, "limits.culture"),
        ({"label": "x", "limits": {"cultures": "amber"}}, "limits.cultures"),
        ({"label": "x", "limits": {"cultures": ["am\0ber"]}}, "limits.cultures[0]"),
        ({"label": "x", "limits": {"axes": [["helpful"]]}}, "limits.axes[0]"),
        ({"label": "x", "limits": {"requests_per_minute": 0}}, "limits.requests_per_minute"),
        ({"label": "x", "limits": {"requests_per_minute": "60"}}, "limits.requests_per_minute"),
        ({"label": "x", "limits": {"requests_per_minute": True}}, "limits.requests_per_minute"),
        ({"label": "x", "limits": {"concurrency": 2**40}}, "limits.concurrency"),
        ({"label": "x", "limits": {"concurrency": 1.5}}, "limits.concurrency"),
        ({"label": "x", "limits": {"expires_at": "2999-01-01T00:00:00"}}, "limits.expires_at"),
        ({"label": "x", "limits": {"expires_at": "soon"}}, "limits.expires_at"),
        (
            {"label": "x", "limits": {"expires_at": (now() - timedelta(seconds=1)).isoformat()}},
            "limits.expires_at",
        ),
    ],
)
async def test_a_bad_body_is_400_names_the_field_and_makes_no_key(
    body: dict[str, Any], param: str, keyless: Running
) -> None:
    error = refused(await create(keyless, **body), 400, "invalid_body")
    assert error["param"] == param and f"`{param}`" in error["message"]
    assert (await get(keyless, "/v1/keys"))["data"] == []


@pytest.mark.parametrize("content", [b"", b"[", b"[]", b"\xff", b'"label"', b'{"label": "\\ud800"}'])
async def test_what_is_no_json_object_is_400(content: bytes, keyless: Running) -> None:
    async with keyless.http() as http:
        headers = {"Content-Type": "application/json"}
        refused(await http.post("/v1/keys", content=content, headers=headers), 400, "invalid_body")
