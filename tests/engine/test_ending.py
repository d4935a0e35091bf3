"""How the server ends when it is told to, and when its engine has died: with vLLM's client as it is asked,
and with the real server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from steer_server.catalogue.base_model import BaseModel
from steer_server.engine.ending import EngineEnd
from steer_server.settings import Settings
from tests.support.adapters import TINY, random_adapter
from tests.support.administration import PROMPT
from tests.support.servers import LEAST_OPTIONS, VLLM_PROCESS, Running, supervised_server
from tests.support.tiny_model import FOR_VLLM, tiny_model_with_weights

CHAT = "/v1/chat/completions"
NUM_STREAMS = 4
NUM_TOKENS = 150
MANY_TOKENS = 3500
"""More than are there by the time that all have begun, however long a busy machine takes over that."""
MAX_TOKENS = 4096
HEALTH_SECONDS = 5.0
"""In which the page that supervisors ask must fail."""
END_SECONDS = 60.0


class Client:
    """vLLM's engine client, as far as it is asked."""

    def __init__(self) -> None:
        self.errored = False
        self.stopped: list[float | None] = []

    def shutdown(self, timeout: float | None = None) -> None:
        self.stopped.append(timeout)
        self.errored = True  # as vLLM's, whose tasks have ended


class Watched:
    """A client that is watched, and how long its requests were given."""

    def __init__(self, *, fails: bool = False) -> None:
        self.client, self.end = Client(), EngineEnd()
        self.given: list[float] = []
        self.fails = fails
        self.end.watch(self.client, self.drain)

    async def drain(self, seconds: float) -> None:
        self.given.append(seconds)
        assert not self.client.stopped
        await asyncio.sleep(0.05)
        if self.fails:
            raise RuntimeError("no")


async def test_the_engine_is_stopped_when_requests_have_finished_and_with_the_time_that_is_left() -> None:
    watched = Watched()
    await asyncio.to_thread(watched.client.shutdown, timeout=60)
    (left,) = watched.client.stopped
    assert watched.given == [60] and left is not None and 0 < left < 60
    assert not watched.end.has_died
    # vLLM does so again when it leaves.
    watched.client.shutdown(timeout=60)
    assert watched.given == [60] and watched.client.stopped[1:] == [60] and not watched.end.has_died


async def test_without_a_time_requests_are_ended_first_all_the_same() -> None:
    watched = Watched()
    await asyncio.to_thread(watched.client.shutdown, timeout=0)
    assert watched.given == [0] and watched.client.stopped == [0]


async def test_an_engine_that_has_died_is_not_waited_for() -> None:
    watched = Watched()
    watched.client.errored = True
    watched.client.shutdown(timeout=60)
    assert not watched.given and watched.client.stopped == [60] and watched.end.has_died


async def test_on_the_servers_own_loop_nothing_is_waited_for() -> None:
    watched = Watched()
    watched.client.shutdown(timeout=60)
    assert not watched.given and watched.client.stopped == [60] and not watched.end.has_died


async def test_whatever_goes_wrong_the_engine_is_stopped() -> None:
    watched = Watched(fails=True)
    await asyncio.to_thread(watched.client.shutdown, timeout=60)
    assert watched.given == [60] and len(watched.client.stopped) == 1


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[Running, psutil.Popen]]:
    """The real server with an adapter, and its process."""
    model = tiny_model_with_weights(folder / TINY, **FOR_VLLM, max_position_embeddings=MAX_TOKENS)
    random_adapter(folder / "adapters", "amber", BaseModel.of(Settings(model=str(model))))
    least = (*LEAST_OPTIONS, f"--max-model-len={MAX_TOKENS}")
    given = ("--model", str(model), "--adapters", str(folder / "adapters"), *least, *options)
    with supervised_server(folder / "served", *given) as started:
        yield started


def body(**more: Any) -> dict[str, Any]:
    steering = {"cultures": {"amber": 1.0}}
    return {"messages": PROMPT, "max_tokens": NUM_TOKENS, "ignore_eos": True, "steering": steering, **more}


async def streamed(http: httpx.AsyncClient, begun: asyncio.Semaphore, **more: Any) -> list[str]:
    """All events of a stream, and what was said when the first had come."""
    events = []
    async with http.stream("POST", CHAT, json=body(stream=True, **more)) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                events.append(line.removeprefix("data: "))
                if len(events) == 2:
                    begun.release()
    return events


async def status(http: httpx.AsyncClient, path: str) -> int:
    """0 where nobody listens any more."""
    try:
        return (await http.get(path)).status_code
    except httpx.TransportError:
        return 0


@pytest.mark.engine
async def test_when_the_engine_dies_health_fails_streams_say_so_and_the_server_ends_with_an_error(
    tmp_path: Path,
) -> None:
    with serving(tmp_path) as (running, server):
        (engine, *_) = (one for one in server.children(recursive=True) if one.name().startswith(VLLM_PROCESS))
        begun = asyncio.Semaphore(0)
        async with running.http() as http:
            streams = [
                asyncio.create_task(streamed(http, begun, max_tokens=MANY_TOKENS)) for _ in range(NUM_STREAMS)
            ]
            whole = asyncio.create_task(http.post(CHAT, json=body(max_tokens=MANY_TOKENS)))
            for _ in streams:
                await begun.acquire()
            killed = time.monotonic()
            engine.kill()
            while await status(http, "/health") == 200:
                assert time.monotonic() < killed + HEALTH_SECONDS
                await asyncio.sleep(0.02)
            assert await status(http, "/ready") in (0, 503)
            async with asyncio.timeout(END_SECONDS):
                found = await asyncio.gather(*streams)
                answer = await whole
        for events in found:
            *_, error, done = events
            assert json.loads(error)["error"]["message"] and done == "[DONE]"
        assert answer.status_code == 502 and answer.json()["error"]["code"] == "engine_error"
        assert await asyncio.to_thread(server.wait, END_SECONDS) > 0
        assert "error: the engine has died" in (tmp_path / "served" / "server.log").read_text()


@pytest.mark.engine
async def test_told_to_stop_the_server_finishes_what_is_under_way_takes_nothing_new_and_ends_well(
    tmp_path: Path,
) -> None:
    is_told = asyncio.Event()

    async def content() -> AsyncIterator[bytes]:
        """A request that is under way for as long as this test likes."""
        whole = json.dumps(body(steering={"method": "diffpo", "cultures": {"amber": 1.0}})).encode()
        yield whole[:10]
        await is_told.wait()
        yield whole[10:]

    with serving(tmp_path, "--shutdown-timeout=120") as (running, server):
        begun = asyncio.Semaphore(0)
        async with running.http() as http:
            headers = {"Content-Type": "application/json"}
            late = asyncio.create_task(http.post(CHAT, content=content(), headers=headers))
            streams = [asyncio.create_task(streamed(http, begun)) for _ in range(NUM_STREAMS)]
            for _ in streams:
                await begun.acquire()
            server.terminate()
            async with asyncio.timeout(END_SECONDS):
                while await status(http, "/ready") != 503:
                    await asyncio.sleep(0.02)
            refused = await http.post(CHAT, json=body())
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
            assert refused.headers["Retry-After"] == "1"
            assert await status(http, "/health") == 200
            for events in await asyncio.gather(*streams):
                *_, last, done = events
                assert json.loads(last)["steering"]["applied"] and done == "[DONE]"
            is_told.set()
            answer = await late
            assert answer.status_code == 200, answer.text
            assert answer.json()["steering"]["denoising"]["outcome"]
        assert await asyncio.to_thread(server.wait, END_SECONDS) == 0


@pytest.mark.engine
async def test_requests_that_do_not_finish_in_time_are_told_and_the_server_ends_well(tmp_path: Path) -> None:
    with serving(tmp_path) as (running, server):
        begun = asyncio.Semaphore(0)
        async with running.http() as http:
            streams = [
                asyncio.create_task(streamed(http, begun, max_tokens=MANY_TOKENS)) for _ in range(NUM_STREAMS)
            ]
            for _ in streams:
                await begun.acquire()
            server.terminate()
            found = await asyncio.gather(*streams)
        for events in found:
            *_, error, done = events
            assert json.loads(error)["error"]["code"] == "not_ready" and done == "[DONE]"
        assert await asyncio.to_thread(server.wait, END_SECONDS) == 0
