"""What a client may send that no sane one would: each is refused as its fault, and none is ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.support.administration import refused
from tests.support.prompters import Prompted, prompted_server

HALF = "\ud800"
CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hello"}]
BODY = {"model": "fake", "messages": MESSAGES}


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Prompted]:
    async with prompted_server(tmp_path_factory.mktemp("world")) as prompted:
        yield prompted


async def sent(world: Prompted, path: str, content: str, *headers: tuple[str, str]) -> httpx.Response:
    async with world.server.http() as http:
        kind = ("Content-Type", "application/json")
        return await http.post(path, content=content, headers=[kind, *headers])


def steered(**steering: Any) -> str:
    return json.dumps({**BODY, "steering": steering})


ODD: dict[str, tuple[str, str]] = {
    "a culture of half a character": (CHAT, steered(cultures={HALF: 1})),
    "a key of half a character": (CHAT, steered(**{HALF: 1})),
    "an option of half a character": (CHAT, steered(cultures={"amber": 1}, options={HALF: 1})),
    "a model of half a character": (CHAT, json.dumps({**BODY, "model": f"fake@{HALF}"})),
    "a plan of half a character": ("/v1/steering/plan", steered(cultures={HALF: 1})),
    "a draft of half a character": (
        CHAT,
        steered(cultures={"amber": 1}, method="diffpo", options={"draft": f"{HALF} w01."}),
    ),
    "half a character for an upstream": (
        CHAT,
        json.dumps({"model": "up/big", "messages": [{"role": "user", "content": HALF}]}),
    ),
    "NaN for an upstream": (CHAT, json.dumps({**BODY, "model": "up/big", "temperature": float("nan")})),
    "a large number for an upstream": (CHAT, '{"model": "up/big", "temperature": 1e999, "messages": []}'),
    "a deep body for an upstream": (CHAT, '{"model": "up/big", "a": ' + "[" * 900 + "]" * 900 + "}"),
}


@pytest.mark.parametrize(("path", "content"), ODD.values(), ids=ODD.keys())
async def test_what_cannot_be_written_again_is_400_and_reaches_nobody(
    world: Prompted, path: str, content: str
) -> None:
    world.begin()
    error = refused(await sent(world, path, content), 400, "invalid_body")
    assert "out" in error["message"] or "flatter" in error["message"]
    assert not world.upstream.received and not world.asked()


@pytest.mark.parametrize("header", ["[" * 50_000, '{"strength": NaN}', r'{"cultures": {"\ud800": 1}}'])
async def test_the_header_is_read_as_strictly_as_the_body(world: Prompted, header: str) -> None:
    answer = await sent(world, CHAT, json.dumps(BODY), ("X-Steering", header))
    assert refused(answer, 400, "invalid_steering")["param"].startswith("X-Steering")


async def test_two_headers_are_two_sources(world: Prompted) -> None:
    headers = [("X-Steering", json.dumps({"cultures": {culture: 1}})) for culture in ("amber", "blue")]
    refused(await sent(world, CHAT, json.dumps(BODY), *headers), 400, "two_sources")


async def test_a_character_that_is_written_as_two_halves_is_taken(world: Prompted) -> None:
    content = json.dumps({**BODY, "messages": [{"role": "user", "content": "😀"}]})
    assert r"\ud83d\ude00" in content
    assert (await sent(world, CHAT, content)).status_code == 200


@pytest.mark.parametrize("place", ["cultures", "values", "options", "model"])
async def test_a_name_of_megabytes_is_shown_short_and_holds_nobody_up(world: Prompted, place: str) -> None:
    name = "amber" * 200_000
    content = steered(**{"cultures": {"amber": 1}, place: {name: 1}})
    if place == "model":
        content = json.dumps({**BODY, "model": f"fake@{name}"})
    async with asyncio.timeout(30):
        answer = await sent(world, CHAT, content)
    assert 400 <= answer.status_code < 500 and len(answer.content) < 2000
    assert "…" in answer.json()["error"]["message"]
