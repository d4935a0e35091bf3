"""kill -9 of the real server, of its engine or of all of it, at any moment of an operator's acts: the next
start is whole, and nothing outlives the server. The full run:

    pytest tests/engine/test_kill.py --kills 50 -s
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import torch

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.service import data_folder
from steer_server.settings import Settings
from tests.support.adapters import TINY
from tests.support.kills import Victim, asking, kill_and_restart, make_archives
from tests.support.servers import LEAST_OPTIONS, VLLM_PROCESS, supervised_server
from tests.support.tiny_model import FOR_VLLM, tiny_model_with_weights

pytestmark = pytest.mark.engine

NUM_KILLS = 2
KINDS = ("server", "engine", "server", "worker", "server", "group")
"""What is killed, in turn: the process that a supervisor knows, or one or all of those behind it."""
LONGEST_END_SECONDS = 60.0
"""Until all of a killed server has ended, on a machine that does other things too."""


async def test_killed_at_any_moment_of_an_act_the_real_server_serves_what_the_database_says(
    num_kills: int | None, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    model = tiny_model_with_weights(tmp_path / TINY, **FOR_VLLM)
    settings = Settings(model=str(model), data=tmp_path / "data")
    base = BaseModel.of(settings)

    @asynccontextmanager
    async def start(number: int) -> AsyncIterator[Victim]:
        kind = KINDS[number % len(KINDS)]
        with supervised_server(tmp_path, "--model", str(model), *LEAST_OPTIONS) as (running, server):
            family = [server, *server.children(recursive=True)]
            names = {process.pid: process.name() for process in family}
            engine = [process for process in family if names[process.pid].startswith(VLLM_PROCESS)]
            victims = {"server": [server], "engine": engine[:1], "worker": engine[-1:], "group": family}[kind]
            assert victims, names

            def kill() -> None:
                for process in victims:
                    os.kill(process.pid, signal.SIGKILL)

            async with asking(running.url) as http:
                victim = Victim(http, kind, kill)
                yield victim
            victim.leftovers = [f"{names[one.pid]} after {kind}" for one in await outliving(family)]

    tally = await kill_and_restart(
        start, data_folder(settings, base), make_archives(tmp_path, base), num_kills or NUM_KILLS
    )
    print(tally)
    assert not tally.leftovers


async def outliving(family: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended by themselves in time."""
    deadline = time.monotonic() + LONGEST_END_SECONDS
    while (alive := [one for one in family if is_alive(one)]) and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    return alive


def is_alive(process: psutil.Process) -> bool:
    try:
        # Who adopts an orphan may be slow to bury it.
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
