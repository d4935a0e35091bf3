"""Two real replicas on one PostgreSQL and one store behind the real vllm-router; one is killed under load.

pytest tests/deploy/test_replicas.py -s     prints what it cost
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from steer_server.catalogue.base_model import BaseModel
from steer_server.settings import Settings
from steer_server.together import together
from tests.support.adapters import TINY, random_adapter
from tests.support.administration import PROMPT, applied, get, push
from tests.support.kills import KEY
from tests.support.postgres import PostgreSQL
from tests.support.router import MODEL, Replica, routing
from tests.support.servers import LEAST_OPTIONS
from tests.support.tiny_model import FOR_VLLM, tiny_model_with_weights
from tests.support.waiting import until

CHAT = "/v1/chat/completions"
NUM_CLIENTS = 8
NUM_TOKENS = 16
PAUSE_SECONDS = 0.25
"""Of a client between two requests: a replica that starts again needs this machine too."""
PHASE_SECONDS = 4.0
NUM_ROUNDS = 3
"""Of all clients in a phase, at least, however long that takes."""
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Reply:
    started: float
    ended: float
    outcome: str
    """`name@version` of the adapter that answered; or a status, `cut`, or an error in the stream."""
    text: str = ""

    @property
    def is_answer(self) -> bool:
        return "@" in self.outcome


async def ask(http: httpx.AsyncClient, *, stream: bool) -> Reply:
    """Args: stream: half of what is asked for; a stream cannot be tried again once it has begun."""
    body = {
        "model": MODEL,
        "messages": PROMPT,
        "max_tokens": NUM_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": stream,
        "steering": {"cultures": {"amber": 1.0}},
    }
    started = time.monotonic()
    try:
        answer = await http.post(CHAT, json=body)
    except httpx.HTTPError:
        return Reply(started, time.monotonic(), "cut")
    ended = time.monotonic()
    if answer.status_code != 200:
        return Reply(started, ended, str(answer.status_code))
    if not stream:
        whole = answer.json()
        return Reply(started, ended, _title(whole), whole["choices"][0]["message"]["content"])
    if "data: [DONE]" not in answer.text:
        return Reply(started, ended, "cut")
    events = [json.loads(line) for line in re.findall(r"^data: (\{.*\})$", answer.text, re.MULTILINE)]
    if any("error" in event for event in events):
        return Reply(started, ended, "error in the stream")
    *words, last = events
    return Reply(started, ended, _title(last), "".join(w["choices"][0]["delta"]["content"] for w in words))


def _title(body: dict[str, Any]) -> str:
    title: str = body["steering"]["applied"][0]["adapter"]
    return title


@asynccontextmanager
async def load(url: str) -> AsyncIterator[list[Reply]]:
    """Clients that ask one request after the other, until the block ends."""
    replies: list[Reply] = []
    is_over = asyncio.Event()

    async def client(http: httpx.AsyncClient, number: int) -> None:
        while not is_over.is_set():
            replies.append(await ask(http, stream=number % 2 == 0))
            await asyncio.sleep(PAUSE_SECONDS)

    async with httpx.AsyncClient(
        base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=120
    ) as http:
        clients = [asyncio.create_task(client(http, number)) for number in range(NUM_CLIENTS)]
        try:
            yield replies
        finally:
            is_over.set()
            await asyncio.gather(*clients)


async def phase(replies: list[Reply]) -> None:
    """Under load."""
    enough = len(replies) + NUM_ROUNDS * NUM_CLIENTS
    await asyncio.sleep(PHASE_SECONDS)
    await until(lambda: len(replies) >= enough)


async def num_answered(replica: Replica) -> float:
    async with replica.running.http() as http:
        page = (await http.get("/metrics")).text
    return sum(
        map(float, re.findall(r'^steer_requests_total\{.*route="chat",status="200"\} (\S+)', page, re.M))
    )


async def adapters(replica: Replica) -> list[Any]:
    """What an operator sees of them there, and what a request under one gets."""
    listed = (await get(replica.running, "/v1/adapters"))["data"]
    seen = [{key: one[key] for key in ("name", "version", "state", "digest")} for one in listed]
    return [*sorted(map(str, seen)), await applied(replica.running, "amber")]


@pytest.fixture
async def replicas(tmp_path: Path, postgresql: PostgreSQL) -> AsyncIterator[list[Replica]]:
    """Started at once, with the same folder of adapters: whoever is first brings them in."""
    model = tiny_model_with_weights(tmp_path / TINY, **FOR_VLLM)
    base = BaseModel.of(Settings(model=str(model), served_model_name=MODEL))
    random_adapter(tmp_path / "adapters", "amber", base)
    random_adapter(tmp_path / "adapters", "blue", base)
    random_adapter(tmp_path / "new", "amber", base, version="2.0.0", seed=9)
    options = (f"--model={model}", f"--adapters={tmp_path / 'adapters'}", *LEAST_OPTIONS)
    shared = {"STEER_DATABASE": postgresql.new_database(), "STEER_STORE": str(tmp_path / "store")}
    made = [
        Replica(tmp_path / name, core, *options, environment=shared) for core, name in enumerate(("a", "b"))
    ]
    try:
        await together(replica.start() for replica in made)
        yield made
    finally:
        for replica in made:
            replica.kill()


@pytest.mark.engine
async def test_requests_are_spread_and_a_killed_replica_is_done_without_until_it_is_back(
    replicas: list[Replica], tmp_path: Path
) -> None:
    victim, survivor = replicas
    assert await adapters(victim) == await adapters(survivor)
    async with routing([replica.running.url for replica in replicas], tmp_path) as url, load(url) as replies:
        await phase(replies)
        shares = [await num_answered(replica) for replica in replicas]
        killed = time.monotonic()
        victim.kill()
        await phase(replies)
        assert (await push(survivor.running, tmp_path / "new" / "amber")).status_code == 201
        starting = time.monotonic()
        await victim.start()
        back = time.monotonic()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await num_answered(victim) == 0:
                await asyncio.sleep(0.05)
        asked_again = time.monotonic()
        await phase(replies)
    failures = [reply for reply in replies if not reply.is_answer]
    report = {
        "requests": len(replies),
        "answered by each before the kill": shares,
        "failed": dict(Counter(reply.outcome for reply in failures)),
        "failed of those under way or begun after the kill": round(
            len(failures) / sum(reply.ended > killed for reply in replies), 4
        ),
        "last failure, seconds after the kill": round(
            max((f.ended - killed for f in failures), default=0), 2
        ),
        "seconds until the replica answered again": round(back - starting, 2),
        "and then until the router asked it": round(asked_again - back, 2),
    }
    print(json.dumps(report, indent=1))
    assert min(shares) > 0.3 * sum(shares)
    assert all(reply.ended > killed for reply in failures)
    # What was under way there is lost, and whatever came before the router noticed was tried on the other.
    assert len(failures) <= NUM_CLIENTS
    assert {reply.outcome for reply in replies if reply.is_answer} == {"amber@1.0.0", "amber@2.0.0"}
    assert len({(reply.outcome, reply.text) for reply in replies if reply.is_answer}) == 2
    assert await adapters(victim) == await adapters(survivor)
