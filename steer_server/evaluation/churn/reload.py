"""`bench reload`: adapters loaded and unloaded many times; slots and memory must be back where they were.

Half of the cycles each way:
activation  a version is activated, asked once, and deactivated, which empties its slot
pressure    one adapter more than there are slots, asked in turn: each request loads one and evicts another
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from steer_server.errors import EvaluationError
from steer_server.evaluation.churn.acts import Act, ActFailed, Kind, Operator
from steer_server.evaluation.churn.churn import ADMIN_CONNECTIONS, ADMIN_SECONDS, pushed
from steer_server.evaluation.churn.packages import VERSIONS
from steer_server.evaluation.churn.report import percentiles
from steer_server.evaluation.churn.streams import Ask
from steer_server.evaluation.client import ServerClient, ServerInfo
from steer_server.evaluation.report import commit
from steer_server.evaluation.server_memory import MemorySampler, find_processes, numbers_in_use
from steer_server.evaluation.streaming import Refused, StreamFailed, http_client, read_stream
from steer_server.evaluation.verdicts import check_shown
from steer_server.progress import Progress

NUM_TOKENS = 4
MAX_LISTED_FAILURES = 50
PROMPT = "What matters most in life?"
VERSION = VERSIONS[0]


@dataclass(frozen=True)
class ReloadOptions:
    url: str
    package: Path
    key: str = ""
    cycles: int = 1000
    slots: int = 0
    """Of the bank; 0: as the server says."""


@dataclass
class Reloads:
    """What the cycles found."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {"activation": [], "pressure": []})
    """By way: duration of each cycle."""
    texts: dict[str, str] = field(default_factory=dict)
    """The first text of each name; every later one must be equal."""
    num_other_texts: int = 0
    """Each request runs alone, so that equal texts are to be expected in every number format."""
    failures: list[str] = field(default_factory=list)

    @property
    def num_cycles(self) -> int:
        return sum(map(len, self.seconds.values()))


async def run_reload(
    options: ReloadOptions, transport: httpx.AsyncBaseTransport | None = None
) -> tuple[ServerInfo, dict[str, Any]]:
    """The server and the results. Whatever was pushed is removed, also when this is interrupted.

    Raises: EvaluationError when server or package cannot be used, or the number of slots is not known.
    """
    commit()
    async with ServerClient(options.url, options.key) as client:
        server = await client.info()
    async with http_client(options.url, options.key, transport, ADMIN_CONNECTIONS, ADMIN_SECONDS) as http:
        before = await numbers_in_use(http)
        slots = options.slots or int(before.get("bank.slots", 0))
        if not slots:
            raise EvaluationError("the server does not say how many slots its bank has; give --slots")
        names = [f"reload-{uuid.uuid4().hex[:6]}-{number}" for number in range(slots + 1)]
        found = Reloads()
        async with pushed(options.package, names, http, seed=0) as (operator, left):
            sampler = MemorySampler(find_processes(options.url), lambda: found.num_cycles)
            await _warm(operator, found, server.model)
            sampler.start()
            try:
                await _cycles(options.cycles, operator, found, server.model)
            finally:
                await sampler.stop()
        found.failures += [f"not removed: {problem}" for problem in left]
        after = await numbers_in_use(http)
    results = {
        "server": server.describe(),
        "cycles": found.num_cycles,
        "slots": slots,
        "seconds": {way: percentiles(seconds) for way, seconds in found.seconds.items()},
        "other_texts": found.num_other_texts,
        "memory": sampler.describe(),
        "in_use": {key: (before.get(key), after.get(key)) for key in sorted(before | after)},
        "failed": len(found.failures),
        "failures": found.failures[:MAX_LISTED_FAILURES],
    }
    return server, results


def evaluate_reload(options: ReloadOptions, out: Path) -> None:
    """Runs it, writes `report.json` and `report.html`, and prints tables and one line of JSON.

    Raises: EvaluationError, after the report is written, when something is not back where it was.
    """
    from steer_server.evaluation.churn.reload_report import verdicts, write_reload

    _, results = asyncio.run(run_reload(options))
    found = verdicts(results)
    write_reload(results, found, out, options.key)
    print(json.dumps({verdict.name: verdict.is_shown for verdict in found}))
    check_shown(found, out)


async def _warm(operator: Operator, found: Reloads, model: str) -> None:
    """Every adapter once, so that what the server keeps for each is there before memory is compared."""
    for name in operator.names:
        await _ask(operator.http, name, found, model)


async def _cycles(cycles: int, operator: Operator, found: Reloads, model: str) -> None:
    with Progress("reload", cycles, "cycles") as progress:
        for number in range(cycles):
            name = operator.names[number % len(operator.names)]
            way = "activation" if number < cycles // 2 else "pressure"
            started = time.monotonic()
            if way == "activation":
                try:
                    await operator.do(Act(Kind.DEACTIVATE, name, VERSION, None))
                    await operator.do(Act(Kind.ACTIVATE, name, VERSION, VERSION))
                except ActFailed as error:
                    found.failures.append(str(error))
            await _ask(operator.http, name, found, model)
            found.seconds[way].append(time.monotonic() - started)
            progress.advance(note=way)


async def _ask(http: httpx.AsyncClient, name: str, found: Reloads, model: str) -> None:
    body = Ask(((name, 1.0),), PROMPT).body(model) | {"max_tokens": NUM_TOKENS}
    try:
        applied, text = await read_stream(http, body)
    except (StreamFailed, Refused) as error:
        found.failures.append(f"{name}: {error}")
        return
    if applied != (f"{name}@{VERSION}",):
        found.failures.append(f"{name} was asked for and {applied} answered")
    found.num_other_texts += text != found.texts.setdefault(name, text)
