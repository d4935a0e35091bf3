"""Keys are asked for on every route, and their limits hold while answers run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from steer_server.app import attach
from steer_server.settings import Settings
from tests.support.adapters import TINY, random_adapter, tiny_base_model
from tests.support.administration import PROMPT, refused
from tests.support.servers import Running, app_server

ADMINISTRATION = [
    ("POST", "/v1/adapters"),
    ("POST", "/v1/adapters/"),
    ("DELETE", "/v1/adapters/amber"),
    ("POST", "/v1/adapters/amber/rollback"),
    ("POST", "/v1/adapters/amber/deactivate"),
    ("POST", "/v1/adapters/amber/versions/1.0.0/activate"),
    ("POST", "/v1/adapters/amber/versions/1.0.0/quarantine"),
    ("POST", "/v1/adapters/amber/versions/1.0.0/release"),
    ("GET", "/v1/audit"),
    ("GET", "/v1/keys"),
    ("POST", "/v1/keys"),
    ("DELETE", "/v1/keys/key-1"),
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/unload_lora_adapter"),
]
OTHERS = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/steering/plan"),
    ("POST", "/v1/rewards"),
    ("GET", "/v1/steering"),
    ("GET", "/v1/models"),
    ("GET", "/v1/adapters"),
    ("GET", "/v1/adapters/amber"),
]
VLLMS = [
    ("POST", "/v1/responses"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v2/rerank"),
    ("POST", "/inference/v1/generate"),
    ("POST", "/invocations"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("POST", "/classify"),
    ("POST", "/collective_rpc"),
    ("POST", "/sleep"),
]
"""Routes that this app lacks: whoever has a key gets 404."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("server")
    base = tiny_base_model(folder / TINY)
    random_adapter(folder / "adapters", "amber", base)
    random_adapter(folder / "adapters", "blue", base)
    random_adapter(folder / "adapters", "compass", base, axes=["helpful", "harmless"])
    return Settings(
        model=base.path,
        served_model_name="fake",
        bank_rank=8,
        adapters=folder / "adapters",
        data=folder / "data",
        admin_key=SecretStr("admin"),
        api_key=SecretStr("static"),
    )


@pytest.fixture(scope="module")
async def server(settings: Settings) -> AsyncIterator[Running]:
    async with app_server(settings, key="admin") as running:
        yield running


async def key(server: Running, **limits: Any) -> str:
    """A new application key's secret."""
    async with server.http() as http:
        made = await http.post("/v1/keys", json={"label": "a demo", "limits": limits})
    return str(made.raise_for_status().json()["secret"])


async def chat(server: Running, secret: str, *, num_tokens: int = 2, **body: Any) -> httpx.Response:
    body = {"model": "fake", "messages": PROMPT, "max_tokens": num_tokens, **body}
    headers = body.pop("headers", {})
    async with server.http(secret) as http:
        return await http.post("/v1/chat/completions", json=body, headers=headers)


@pytest.mark.parametrize("secret", ["", "wrong", "ss-op-" + "x" * 43, "ss-app-" + "x" * 43])
@pytest.mark.parametrize(("method", "path"), ADMINISTRATION + OTHERS + VLLMS)
async def test_strangers_are_refused_everywhere(server: Running, method: str, path: str, secret: str) -> None:
    async with server.http(secret) as http:
        response = await http.request(method, path, json={})
    refused(response, 401, "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path"), ADMINISTRATION)
async def test_an_application_key_does_not_administer(server: Running, method: str, path: str) -> None:
    async with server.http("static") as http:
        refused(await http.request(method, path, json={}), 403, "operator_key_required")


@pytest.mark.parametrize("secret", ["static", "admin"])
async def test_either_key_asks_looks_and_reaches_vllms_routes(server: Running, secret: str) -> None:
    assert (await chat(server, secret)).status_code == 200
    async with server.http(secret) as http:
        for method, path in OTHERS:
            assert (await http.request(method, path, json={})).status_code in (200, 400)
        for method, path in VLLMS:
            assert (await http.request(method, path, json={})).status_code == 404


async def test_health_and_metrics_need_no_key(server: Running) -> None:
    async with server.http("") as http:
        assert (await http.get("/ready")).status_code == 200
        described = (await http.get("/openapi.json")).json()
        assert described["paths"]["/v1/keys"]["post"]["requestBody"]["required"]
        assert (await http.get("/metrics", follow_redirects=True)).status_code == 200
        assert (await http.get("/health")).status_code == 200
        for path in ("/version", "/ping"):
            assert (await http.get(path)).status_code == 404  # vLLM's; not in this app
        assert (await http.get("/healthy")).status_code == 401


async def test_a_large_upload_without_a_key_gets_its_refusal(server: Running) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(400):
            yield bytes(2**16)

    async with server.http("wrong") as http:
        headers = {"Content-Type": "application/gzip"}
        response = await http.post("/v1/adapters", content=pieces(), headers=headers)
    refused(response, 401, "invalid_api_key")


async def test_refusals_are_counted_by_what_the_key_lacks(server: Running) -> None:
    async def counted() -> dict[str, float]:
        async with server.http("") as http:
            page = (await http.get("/metrics", follow_redirects=True)).text
        return {
            sample.labels["code"]: sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == "steer_key_refusals_total"
        }

    before = await counted()
    async with server.http("wrong") as http:
        await http.get("/v1/models")
        await http.post("/v1/chat/completions", json={})
    async with server.http("static") as http:
        await http.get("/v1/audit")
        await http.get("/v1/models")
    after = await counted()
    added = {code: after[code] - before.get(code, 0) for code in after if after[code] != before.get(code, 0)}
    assert added == {"invalid_api_key": 2, "operator_key_required": 1}


async def test_keys_are_asked_for_behind_a_proxys_prefix(server: Running) -> None:
    app = FastAPI()
    app.root_path = "/api"  # as vLLM's --root-path does
    attach(app)
    app.state.steer = server.steer
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://steer.example") as http:
        for prefix in ("", "/api"):
            for method, path in (*OTHERS, *ADMINISTRATION):
                refused(await http.request(method, prefix + path, json={}), 401, "invalid_api_key")
            assert (await http.get(f"{prefix}/ready")).status_code == 200
        http.headers["Authorization"] = "Bearer static"
        assert (await http.get("/api/v1/models")).status_code == 200
        refused(await http.get("/api/v1/audit"), 403, "operator_key_required")


async def test_a_key_asks_for_its_own_cultures_and_axes_only(server: Running) -> None:
    secret = await key(server, cultures=["amber"], axes=["helpful"])
    allowed = await chat(server, secret, steering={"cultures": {"amber": 1.0}})
    assert allowed.json()["steering"]["applied"][0]["adapter"] == "amber@1.0.0"
    assert (await chat(server, secret)).status_code == 200
    blend = {"cultures": {"amber": 0.5, "blue": 0.5}}
    for asked, param in (
        ({"steering": blend}, "steering.cultures.blue"),
        ({"headers": {"X-Steering": json.dumps(blend)}}, "X-Steering.cultures.blue"),
        ({"model": "fake@blue"}, "model.cultures.blue"),
    ):
        error = refused(await chat(server, secret, **asked), 403, "culture_not_allowed")
        assert error["param"] == param and "amber" in error["message"]
    values = await chat(server, secret, steering={"values": {"harmless": 1.0}})
    assert refused(values, 403, "value_not_allowed")["param"] == "steering.values.harmless"


async def test_a_key_has_its_requests_per_minute(server: Running) -> None:
    secret = await key(server, requests_per_minute=3)
    for _ in range(3):
        assert (await chat(server, secret)).status_code == 200
    response = await chat(server, secret)
    refused(response, 429, "rate_limit_exceeded")
    assert 1 <= int(response.headers["retry-after"]) <= 60
    async with server.http(secret) as http:
        refused(await http.get("/v1/models"), 429, "rate_limit_exceeded")
    assert (await chat(server, await key(server, requests_per_minute=3))).status_code == 200


async def test_a_key_has_its_places_and_a_stream_holds_one_to_its_end(server: Running) -> None:
    assert server.fake is not None
    secret = await key(server, concurrency=1)
    body = {"model": "fake", "messages": PROMPT, "max_tokens": 2000, "stream": True}
    server.fake.token_seconds = 0.05
    try:
        async with (
            server.http(secret) as http,
            http.stream("POST", "/v1/chat/completions", json=body) as response,
        ):
            lines = response.aiter_lines()
            assert (await anext(lines)).startswith("data: ")
            refused(await chat(server, secret), 429, "concurrency_limit_exceeded")
            server.fake.token_seconds = 0.0
            assert [line async for line in lines][-2:] == ["data: [DONE]", ""]
        assert (await chat(server, secret)).status_code == 200
        # A client that goes away in the middle gives its place back as well.
        server.fake.token_seconds = 0.05
        async with (
            server.http(secret) as http,
            http.stream("POST", "/v1/chat/completions", json=body) as response,
        ):
            await anext(response.aiter_lines())
        # Sooner than its stream would have ended.
        async with asyncio.timeout(60):
            while (await chat(server, secret)).status_code != 200:
                await asyncio.sleep(0.02)
        # So does one that was refused for something else.
        refused(await chat(server, secret, steering={"cultures": {"nobody": 1}}), 400, "unknown_culture")
        assert (await chat(server, secret)).status_code == 200
    finally:
        server.fake.token_seconds = 0.0


async def test_without_an_admin_key_this_machine_administers_and_nobody_behind_a_proxy(
    settings: Settings, tmp_path: Path
) -> None:
    own = settings.model_copy(update={"admin_key": None, "api_key": None, "data": tmp_path / "data"})
    async with app_server(own, key="") as server, server.http() as http:
        assert (await http.get("/v1/audit")).status_code == 200
        assert (await http.post("/v1/adapters/amber/deactivate")).status_code == 200
        for headers in (
            {"X-Forwarded-For": "192.0.2.9"},
            {"Origin": "https://attacker.example"},
            {"Host": "attacker.example"},
        ):
            refused(await http.get("/v1/audit", headers=headers), 401, "invalid_api_key")
        acts = (await http.get("/v1/audit?name=amber&limit=1")).json()["data"]
        assert (acts[0]["actor"], acts[0]["remote_address"]) == ("this machine", "127.0.0.1")
