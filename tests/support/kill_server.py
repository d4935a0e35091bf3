"""The real app on FakeEngine in a process of its own, to be killed, and operators who never stop acting."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from multiprocessing.connection import Connection

import httpx

from steer_server.settings import Settings
from tests.support.servers import app_server

KEY = "operator"
VERSIONS = ("1.0.0", "2.0.0")


def serve(settings: Settings, started: Connection) -> None:
    """Says its URL when it answers; serves until it is killed."""
    asyncio.run(_serve(settings, started))


async def _serve(settings: Settings, started: Connection) -> None:
    async with app_server(settings, key=KEY) as running:
        started.send(running.url)
        await asyncio.Event().wait()


async def act_until_killed(
    http: httpx.AsyncClient, archives: dict[tuple[str, str], bytes], rng: random.Random
) -> int:
    """Random acts, three at a time, until the server is gone. Returns: how many were answered."""
    names = sorted({name for name, _ in archives})
    num_answered = 0

    async def operator() -> None:
        nonlocal num_answered
        while True:
            name, version = rng.choice(names), rng.choice(VERSIONS)
            path = f"/v1/adapters/{name}"
            request = rng.choices(
                [
                    http.build_request(
                        "POST",
                        f"/v1/adapters?activate={rng.choice(('true', 'false'))}",
                        content=archives[name, version],
                        headers={"Content-Type": "application/gzip"},
                    ),
                    http.build_request("POST", f"{path}/versions/{version}/activate"),
                    http.build_request("POST", f"{path}/rollback"),
                    http.build_request("POST", f"{path}/versions/{version}/quarantine"),
                    http.build_request("POST", f"{path}/versions/{version}/release"),
                    http.build_request("DELETE", path, params={"version": version}),
                    http.build_request("DELETE", path),
                ],
                weights=[5, 3, 2, 1, 1, 2, 1],
            )[0]
            response = await http.send(request)
            assert response.status_code in (200, 201, 400, 404, 409), response.text
            num_answered += 1

    with suppress(httpx.TransportError):
        # Not a TaskGroup: the first that meets the dead server is as good as all.
        await asyncio.gather(*(operator() for _ in range(3)))
    return num_answered
