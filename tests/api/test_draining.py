"""A server that is told to stop, on the real app with a slow FakeEngine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from steer_server.api.draining import Drain
from steer_server.api.running import RunningRequests
from tests.support.adapters import TINY, tiny_base_model
from tests.support.administration import PROMPT, refused
from tests.support.servers import Running, fake_server

CHAT = "/v1/chat/completions"
LONG_SECONDS = 60.0
STEERING = {"cultures": {"amber": 1.0}}
SCORED = {**STEERING, "method": "best_of_n", "reward_heads": ["warm"], "options": {"n": 2}}


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    folder = tmp_path_factory.mktemp("server")
    tiny_base_model(folder / TINY)
    async with fake_server(folder, folder / TINY, token_seconds=0.02) as running:
        yield running


@pytest.fixture
def slow(server: Running) -> Running:
    """As nobody has told it to stop."""
    assert server.steer is not None
    server.steer.running = RunningRequests()
    server.steer.drain = Drain(server.steer.running)
    return server


def drain_of(server: Running) -> Drain:
    assert server.steer is not None
    return server.steer.drain


def body(server: Running, **more: Any) -> dict[str, Any]:
    return {"model": server.model, "messages": PROMPT, "steering": STEERING, "max_tokens": 40, **more}


@asynccontextmanager
async def asking(server: Running, **more: Any) -> AsyncIterator[asyncio.Task[httpx.Response]]:
    """A request that the engine has."""
    assert server.fake is not None
    async with server.http() as http:
        asked = asyncio.create_task(http.post(CHAT, json=body(server, **more)))
        while not server.fake.num_running:
            await asyncio.sleep(0.01)
        yield asked


def words_of(stream: str) -> list[str]:
    events = [json.loads(line[6:]) for line in stream.split("\n\n") if line.startswith("data: {")]
    return [choice["delta"]["content"] for event in events for choice in event.get("choices", ())]


async def test_what_is_under_way_finishes_and_nothing_new_begins(
    slow: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asking(slow, stream=True, max_tokens=400) as asked, slow.http() as http:
        stopping = asyncio.create_task(drain_of(slow).finish(LONG_SECONDS))
        await asyncio.sleep(0)
        answers = [
            await http.post(CHAT, json=body(slow)),
            await http.post("/v1/responses", json={"input": "hello"}),
            await http.get("/v1/adapters"),
            await http.get("/ready"),
        ]
        assert [(a.status_code, a.json()["error"]["code"]) for a in answers] == [(503, "not_ready")] * 4
        assert all(answer.headers["Retry-After"] == "1" for answer in answers)
        assert (await http.get("/health")).status_code == (await http.get("/metrics")).status_code == 200
        assert not asked.done() and not stopping.done()
        monkeypatch.setattr(slow.fake, "token_seconds", 0.0)
        text = (await asked).text
        await stopping
    assert len(words_of(text)) == 400 and text.endswith("data: [DONE]\n\n")


async def test_a_request_of_several_steps_takes_all_of_them(slow: Running) -> None:
    async with asking(slow, steering=SCORED) as asked:
        await drain_of(slow).finish(LONG_SECONDS)
        answer = (await asked).json()
    assert len(answer["steering"]["rewards"]["candidates"]) == 2


async def test_a_request_whose_body_is_still_coming_is_under_way(slow: Running) -> None:
    is_told = asyncio.Event()

    async def content() -> AsyncIterator[bytes]:
        whole = json.dumps(body(slow)).encode()
        yield whole[:10]
        await is_told.wait()
        yield whole[10:]

    async with slow.http() as http:
        headers = {"Content-Type": "application/json"}
        asked = asyncio.create_task(http.post(CHAT, content=content(), headers=headers))
        while drain_of(slow)._is_idle.is_set():
            await asyncio.sleep(0.01)
        stopping = asyncio.create_task(drain_of(slow).finish(LONG_SECONDS))
        await asyncio.sleep(0.1)
        is_told.set()
        assert (await asked).status_code == 200
        await stopping


@pytest.mark.parametrize("is_stream", [False, True])
async def test_what_has_not_finished_in_time_ends_with_an_error(slow: Running, is_stream: bool) -> None:
    async with asking(slow, stream=is_stream, max_tokens=2000) as asked:
        await drain_of(slow).finish(0.2)
        answer = await asked
    assert slow.fake is not None and slow.fake.num_running == 0
    if is_stream:
        *_, error, done = answer.text.strip().split("\n\n")
        assert json.loads(error.removeprefix("data: "))["error"]["code"] == "not_ready"
        assert done == "data: [DONE]"
    else:
        assert refused(answer, 503, "not_ready")["message"].startswith("The server was stopped")


async def test_what_one_ended_request_goes_on_with_is_ended_too(slow: Running) -> None:
    """It waits for slots while others are ended, and gets them then."""
    taken = {"cultures": dict.fromkeys(("blue", "coral", "denim", "ebony"), 0.25)}
    async with (
        asking(slow, steering=taken, max_tokens=2000) as asked,
        slow.http() as http,
    ):
        waiting = asyncio.create_task(http.post(CHAT, json=body(slow, max_tokens=2000)))
        assert slow.steer is not None
        while not slow.steer.leases.num_waiting:
            await asyncio.sleep(0.01)
        await drain_of(slow).finish(0)
        assert [(await one).status_code for one in (asked, waiting)] == [503, 503]
    assert slow.steer.leases.num_leases == 0


async def test_with_nothing_under_way_it_takes_no_time(slow: Running) -> None:
    async with asyncio.timeout(1):
        await drain_of(slow).finish(0)
        await drain_of(slow).finish(LONG_SECONDS)
