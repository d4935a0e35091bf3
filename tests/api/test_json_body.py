"""How much of a body is read, and what a client that leaves meanwhile leaves behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace

import httpx
import pytest
from starlette.types import Message

from steer_server.api.guard import SteeringGuard
from tests.support.servers import Running

LIMIT = 2000
ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/rewards", "/v1/steering/plan", "/v1/responses")


@pytest.fixture
def small(fake: Running, monkeypatch: pytest.MonkeyPatch) -> Running:
    """The app with a limit of LIMIT bytes."""
    assert fake.steer is not None
    monkeypatch.setattr(fake.steer, "max_body_bytes", LIMIT)
    return fake


def chat(server: Running, num_bytes: int) -> bytes:
    """A body of exactly so many bytes."""
    body = {"model": server.model, "max_tokens": 1, "messages": [{"role": "user", "content": ""}]}
    empty = len(json.dumps(body))
    body["messages"][0]["content"] = "x" * (num_bytes - empty)  # type: ignore[index]
    return json.dumps(body).encode()


async def in_parts(body: bytes) -> AsyncIterator[bytes]:
    """Sent without saying how much will come."""
    for start in range(0, len(body), 100):
        yield body[start : start + 100]


async def sent(server: Running, path: str, content: bytes | AsyncIterator[bytes]) -> httpx.Response:
    async with server.http() as http:
        return await http.post(path, content=content, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize("is_announced", [True, False])
@pytest.mark.parametrize("path", ROUTES)
async def test_a_body_over_the_limit_is_refused_by_its_setting(
    small: Running, path: str, is_announced: bool
) -> None:
    body = chat(small, LIMIT + 1)
    answer = await sent(small, path, body if is_announced else in_parts(body))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (413, "body_too_large")
    assert "STEER_MAX_BODY_MIB" in error["message"]


async def test_no_more_of_a_body_is_kept_than_the_limit_where_it_is_only_looked_at_for_steering(
    small: Running,
) -> None:
    """An endless body to a route of vLLM's own."""
    num_taken = 0

    async def receive() -> Message:
        nonlocal num_taken
        num_taken += 1
        return {"type": "http.request", "body": b" " * 100, "more_body": True}

    async def vllm(*_: object) -> None:
        raise AssertionError("the route was reached")

    answer: list[Message] = []

    async def send(message: Message) -> None:
        answer.append(message)

    app = SimpleNamespace(state=SimpleNamespace(steer=small.steer))
    scope = {"type": "http", "method": "POST", "path": "/v1/responses", "headers": [], "app": app}
    await SteeringGuard(vllm)(scope, receive, send)
    assert answer[0]["status"] == 413 and num_taken == LIMIT // 100 + 1


async def test_a_recording_is_not_held_in_memory_to_look_for_steering(small: Running) -> None:
    async with small.http() as http:
        files = {"file": ("speech.wav", b"x" * (LIMIT + 1))}
        answer = await http.post("/v1/audio/transcriptions", files=files)
    assert answer.status_code == 404  # the fake has none


@pytest.mark.parametrize("is_announced", [True, False])
async def test_a_body_of_just_the_limit_is_answered(small: Running, is_announced: bool) -> None:
    body = chat(small, LIMIT)
    answer = await sent(small, ROUTES[0], body if is_announced else in_parts(body))
    assert answer.status_code == 200 and answer.json()["choices"]


async def test_a_client_that_leaves_while_it_sends_is_no_error_of_the_server(fake: Running) -> None:
    async with fake.http() as http:
        before = (await http.get("/metrics")).text
        host, port = fake.url.removeprefix("http://").split(":")
        for path in (ROUTES[0], ROUTES[3]):
            _, writer = await asyncio.open_connection(host, int(port))
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 500"
            writer.write(f"{head}\r\n\r\n{{".encode())
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        def left(page: str) -> list[str]:
            return [line for line in page.splitlines() if 'status="499"' in line]

        async with asyncio.timeout(60):
            while left(after := (await http.get("/metrics")).text) == left(before):
                await asyncio.sleep(0.01)
    assert [line for line in after.splitlines() if "internal_error" in line] == [
        line for line in before.splitlines() if "internal_error" in line
    ]
