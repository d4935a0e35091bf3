"""Acts at random, without an end: what a process does in which others kill it or race with it."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from multiprocessing.connection import Connection

from steer_server.catalogue import acts, aliases, keys, views
from steer_server.catalogue.database import Database
from steer_server.catalogue.states import State
from steer_server.errors import RequestError
from tests.support.catalogue_acts import OPERATOR, new_version

NAMES = ("alpha", "beta")


def churn(url: str, seed: int, started: Connection, num_acts: int | None = None) -> None:
    """Says "started" after its first act; then acts until it is killed, or `num_acts` times."""
    asyncio.run(_churn(url, random.Random(seed), started, num_acts))


async def _churn(url: str, rng: random.Random, started: Connection, num_acts: int | None) -> None:
    database = await Database.open(url)
    num_done = 0
    while num_acts is None or num_done < num_acts:
        # Refused acts are part of it.
        with suppress(RequestError):
            await act_at_random(database, rng)
        num_done += 1
        if num_done == 1:
            started.send("started")
    await database.close()


async def act_at_random(database: Database, rng: random.Random) -> None:
    """Raises: RequestError when the act is refused, as many are."""
    name = rng.choice(NAMES)
    here = [v for v in (await views.read(database)).versions.values() if v.name == name]
    digest = rng.choice(here).digest if here else "f" * 64
    choice = rng.randrange(10)
    if choice <= 1 or len(here) < 2:
        await acts.add_version(database, OPERATOR, new_version(name, str(rng.randrange(10**9))))
    elif choice == 2:
        await acts.quarantine(database, OPERATOR, digest, reason="random")
    elif choice == 3:
        await acts.release(database, OPERATOR, digest)
    elif choice == 4 and len(here) > 4:
        await acts.remove(database, OPERATOR, digest)
    elif choice == 5:
        await aliases.rollback(database, OPERATOR, name)
    elif choice == 6 and rng.random() < 0.3:
        await aliases.deactivate(database, OPERATOR, name)
    elif choice == 7 and rng.random() < 0.3:
        key, _ = await keys.create_key(database, OPERATOR, "application", "random")
        await keys.revoke_key(database, OPERATOR, key.id)
    else:
        for version in here:
            steps = {State.STAGED: State.VALIDATED, State.VALIDATED: State.PROBED}
            if version.state in steps:
                await acts.set_state(database, OPERATOR, version.digest, steps[version.state])
        await aliases.activate(database, OPERATOR, name, digest)
