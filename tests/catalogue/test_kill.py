"""kill -9 of a server at any moment of a push, an activation, a rollback or a removal: the next start is
whole. With FakeEngine; `tests/engine/test_kill.py` does the same to the real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.context import ForkServerContext
from pathlib import Path

from pydantic import SecretStr

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.service import data_folder
from steer_server.settings import Settings
from tests.support.adapters import TINY, tiny_base_model
from tests.support.kill_server import serve
from tests.support.kills import KEY, Victim, asking, kill_and_restart, make_archives

NUM_KILLS = 50
START_SECONDS = 300


async def test_killed_at_any_moment_of_an_act_the_next_start_serves_what_the_database_says(
    context: ForkServerContext, num_kills: int | None, tmp_path: Path
) -> None:
    settings = Settings(
        model=tiny_base_model(tmp_path / TINY).path,
        served_model_name="fake",
        bank_rank=8,
        data=tmp_path / "data",
        admin_key=SecretStr(KEY),
    )
    base = BaseModel.of(settings)

    @asynccontextmanager
    async def start(number: int) -> AsyncIterator[Victim]:
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=serve, args=(settings, there))
        process.start()
        there.close()
        try:
            assert await asyncio.to_thread(here.poll, START_SECONDS), "the server does not start"
            async with asking(here.recv()) as http:
                yield Victim(http, "server", process.kill)
        finally:
            here.close()
            process.kill()
            await asyncio.to_thread(process.join)
            process.close()

    archives = make_archives(tmp_path, base)
    print(await kill_and_restart(start, data_folder(settings, base), archives, num_kills or NUM_KILLS))
