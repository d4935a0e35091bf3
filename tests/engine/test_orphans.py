"""A process of the engine's ends when its parent was killed."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection

import pytest

from steer_server.engine.orphans import end_with_parent

LONGEST_SECONDS = 60.0
SPAWN = multiprocessing.get_context("spawn")


def be_the_engine(started: Connection) -> None:
    end_with_parent()
    started.send("started")
    time.sleep(3 * LONGEST_SECONDS)


def be_the_server(started: Connection) -> None:
    SPAWN.Process(target=be_the_engine, args=(started,)).start()
    time.sleep(3 * LONGEST_SECONDS)


def test_the_engine_of_a_killed_server_ends() -> None:
    here, there = SPAWN.Pipe(duplex=False)
    server = SPAWN.Process(target=be_the_server, args=(there,))
    server.start()
    there.close()
    assert here.recv() == "started"
    server.kill()
    server.join()
    assert here.poll(LONGEST_SECONDS), "it lives on"
    with pytest.raises(EOFError):  # nobody holds the other end any more
        here.recv()
