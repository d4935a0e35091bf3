"""The real app on FakeEngine in a process of its own, to be killed."""

from __future__ import annotations

import asyncio
from multiprocessing.connection import Connection
from typing import Any

from steer_server.settings import Settings
from tests.support.kills import KEY
from tests.support.servers import app_server


def serve(settings: Settings, started: Connection, **options: Any) -> None:
    """Says its URL when it answers; serves until it is killed. Args: options: of `app_server`."""
    asyncio.run(_serve(settings, started, **options))


async def _serve(settings: Settings, started: Connection, **options: Any) -> None:
    async with app_server(settings, key=KEY, **options) as running:
        started.send(running.url)
        await asyncio.Event().wait()
