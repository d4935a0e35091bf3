"""What tests ask of a server's administration, over HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx

from steer_server.catalogue.package import pack
from steer_server.catalogue.store import LOCK, VERSIONS
from tests.support.servers import Running
from tests.support.waiting import until

PROMPT = [{"role": "user", "content": "How important is religion in your life?"}]
ANSWER_SECONDS = 300.0
"""Until the real engine has answered all who ask at once, on a machine that does other things too."""


async def push(server: Running, folder: Path, *, activate: bool = True) -> httpx.Response:
    async with server.http() as http:
        return await http.post(
            "/v1/adapters",
            params={"activate": "true"} if activate else {},
            content=b"".join(pack(folder)),
            headers={"Content-Type": "application/gzip"},
        )


async def act(server: Running, path: str, body: Any = None) -> httpx.Response:
    async with server.http() as http:
        return await http.post(f"/v1/adapters/{path}", json=body)


async def answered_by(title: str, answers: list[str]) -> None:
    """Returns when an answer is added that names this `name@version`."""
    num_before = len(answers)
    async with asyncio.timeout(ANSWER_SECONDS):
        while title not in answers[num_before:]:
            await asyncio.sleep(0.02)


async def get(server: Running, path: str) -> Any:
    async with server.http() as http:
        return (await http.get(path)).raise_for_status().json()


async def state(server: Running, name: str) -> dict[str, str]:
    """Version -> state."""
    listed = (await get(server, "/v1/adapters"))["data"]
    return {one["version"]: one["state"] for one in listed if one["name"] == name}


async def chat(server: Running, culture: str) -> httpx.Response:
    body = {
        "model": server.model,
        "messages": PROMPT,
        "max_tokens": 8,
        "temperature": 0,
        "steering": {"cultures": {culture: 1.0}},
    }
    async with server.http() as http:
        return await http.post("/v1/chat/completions", json=body)


async def applied(server: Running, culture: str) -> tuple[str, str]:
    """`name@version`, and the text."""
    answer = (await chat(server, culture)).raise_for_status().json()
    return answer["steering"]["applied"][0]["adapter"], answer["choices"][0]["message"]["content"]


def refused(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The error's body, in OpenAI's shape."""
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code), response.text
    assert error["message"] and {"type", "param"} <= error.keys()
    if status == 409:
        assert response.headers["x-should-retry"] == "false"
    assert ("retry-after" in response.headers) == (status in (429, 503))
    return error


async def stored(server: Running) -> set[str]:
    """Digests in the store, once its staging area is empty, as it must be soon after any request."""
    await until(lambda: not [path for path in (server.store / "staging").glob("*/*") if path.name != LOCK])
    return {path.name for path in (server.store / VERSIONS).iterdir()}
