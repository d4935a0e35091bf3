"""Killed at any moment, or raced with, the database stays consistent."""

from __future__ import annotations

import random
import time
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess

from steer_server.catalogue import views
from steer_server.catalogue.database import Database
from tests.support.catalogue_acts import OPERATOR, add_active, assert_consistent, new_version
from tests.support.churn import churn

NUM_KILLS = 20
LEAST_LIFE_SECONDS = 0.3
LONGEST_LIFE = 15
"""Of a process, in times of an act of this one: a slow machine is as far in its acts as a fast one."""
START_SECONDS = 300
"""Of the first process of all too, from which the others are started."""


def start_churning(
    context: ForkServerContext, url: str, seed: int, num_acts: int | None = None
) -> tuple[BaseProcess, Connection]:
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=churn, args=(url, seed, there, num_acts))
    process.start()
    there.close()
    return process, here


async def test_killed_in_the_middle_of_acts_the_database_is_consistent(
    database_url: str, context: ForkServerContext
) -> None:
    rng = random.Random(7)
    num_acts, longest_life = 0, LEAST_LIFE_SECONDS
    for kill in range(NUM_KILLS):
        process, pipe = start_churning(context, database_url, kill)
        assert pipe.poll(START_SECONDS) and pipe.recv() == "started"
        time.sleep(rng.uniform(0, longest_life))
        process.kill()
        process.join()
        process.close()
        database = await Database.open(database_url)
        await assert_consistent(database)
        # The next process is not in the way of what the killed one held.
        started = time.monotonic()
        await add_active(database, new_version("gamma", str(kill)))
        longest_life = max(LEAST_LIFE_SECONDS, LONGEST_LIFE * (time.monotonic() - started))
        await assert_consistent(database)
        newest = (await views.audit(database, limit=1))[0].id
        assert newest > num_acts
        num_acts = newest
        await database.close()
    assert num_acts > NUM_KILLS * 8, "hardly anything was done"


async def test_killed_while_the_database_is_made_it_is_made_by_the_next(
    database_url: str, context: ForkServerContext
) -> None:
    for delay_seconds in (0.01, 0.03, 0.06, 0.1, 0.2):
        process, _pipe = start_churning(context, database_url, 1)
        time.sleep(delay_seconds)
        process.kill()
        process.join()
        process.close()
    database = await Database.open(database_url)
    await add_active(database, new_version("gamma"))
    await assert_consistent(database)
    await database.close()


async def test_processes_that_start_and_act_at_once_do_not_spoil_each_others_acts(
    database_url: str, context: ForkServerContext
) -> None:
    processes = [start_churning(context, database_url, seed, num_acts=40) for seed in range(3)]
    for process, _pipe in processes:
        process.join(START_SECONDS)
        assert process.exitcode == 0
        process.close()
    database = await Database.open(database_url)
    await assert_consistent(database)
    entries = await views.audit(database, limit=1000, actor=OPERATOR.name)
    assert {"done", "refused"} <= {entry.outcome for entry in entries}
    await database.close()
