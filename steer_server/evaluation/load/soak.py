"""`bench soak`: a running server under a mixed load for minutes; nothing may hang, leak or go wrong.

    every kind of request once -> [search for the rate] -> the mix, to warm up; then all clients leave
    -> the mix, for minutes; then all clients leave -> every kind of request once

Requests are sent when they are due, whatever became of earlier ones. While the mix is sent for minutes,
gauges, memory and file handles are sampled. What the server holds and has open with all clients gone is
compared with what it had before.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from steer_server.errors import EvaluationError
from steer_server.evaluation.client import ServerClient, ServerInfo
from steer_server.evaluation.html import write_all
from steer_server.evaluation.load.bad_requests import bad_requests
from steer_server.evaluation.load.latency import CONNECTIONS
from steer_server.evaluation.load.offer import Offer, Vectors, read_offer
from steer_server.evaluation.load.open_loop import Arrivals, Window, find_sustained_rate, run_window
from steer_server.evaluation.load.server_watch import EVERY_SECONDS, ServerWatch, until_given_back
from steer_server.evaluation.load.soak_load import Asked, Mix
from steer_server.evaluation.report import commit
from steer_server.evaluation.server_memory import find_processes, num_handles
from steer_server.evaluation.streaming import http_client
from steer_server.evaluation.verdicts import check_shown

WATCH_CONNECTIONS = 1
FIRST_RATE = 1.0
"""Of the search."""
RECEIVE_BUFFER_BYTES = 4096
"""Of a slow reader's sockets, so that what it has not read stays with the server."""
WARM_UP_SHARE = 0.1
"""Of the minutes, before them."""
CLOSING_SECONDS = 1.0
"""For a server to see that clients have closed their connections."""


@dataclass(frozen=True)
class SoakOptions:
    url: str
    api_key: str = ""
    minutes: float = 10.0
    rate: float = 0.0
    """Requests per second; 0: the highest that is sustained, which is looked for first."""
    search_seconds: float = 60.0
    """Of each rate that is tried."""
    max_tokens: int = 48
    oversized_bytes: int = 32 * 2**20
    pause_seconds: float = 0.2
    """Of a slow reader, between two lines of a stream."""
    hang_seconds: float = 120.0
    """A request that has not ended by then hangs."""
    settle_seconds: float = 30.0
    """Longest time until all is given back, after the load."""
    blend: int = 3
    cultures: tuple[str, ...] = ()
    """Only these; empty for all."""
    sample_seconds: float = EVERY_SECONDS
    seed: int = 20261122

    def describe(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if k not in ("api_key", "url")}


@dataclass(frozen=True)
class SoakRun:
    """What was found, for `soak_report`."""

    server: ServerInfo
    rate: float
    tried: list[Window[Asked]]
    """In search of the rate."""
    window: Window[Asked]
    warm: list[Asked]
    """Every kind once, and the mix before the window."""
    again: list[Asked]
    """Every kind once, after it."""
    watched: dict[str, Any]
    settled_seconds: float
    left: dict[str, float] | None
    """Gauges that are not 0 at the end; None where the server does not say."""
    handles: dict[str, tuple[int, int]]
    """Open by process, before and after the load, with all clients gone."""


async def run_soak(options: SoakOptions, transport: httpx.AsyncBaseTransport | None = None) -> SoakRun:
    """Raises: EvaluationError when the server does not say what it offers, or no rate is sustained.

    Args:
        transport: for tests.
    """
    commit()
    async with ServerClient(options.url, options.api_key) as client:
        server = await client.info()
    processes = find_processes(options.url)
    rng = random.Random(options.seed)
    watching = http_client(options.url, options.api_key, None, WATCH_CONNECTIONS, options.hang_seconds)
    async with watching as watch_http:
        offer = await read_offer(watch_http, server.model, options.cultures)
        seconds = options.minutes * 60
        async with _mix(options, offer, rng, transport) as mix:
            warm = await mix.send_each_once()
            rate, tried = await _rate(options, rng, mix)
            warm_up = await run_window(
                "warm-up", rate, WARM_UP_SHARE * seconds, Arrivals.POISSON, rng, mix.send, 0.0
            )
            warm += warm_up.sent
        await asyncio.sleep(CLOSING_SECONDS)
        handles_before = num_handles(processes)
        async with _mix(options, offer, rng, transport) as mix:
            watch = ServerWatch(watch_http, processes, options.sample_seconds)
            watch.start()
            try:
                window = await run_window("soak", rate, seconds, Arrivals.POISSON, rng, mix.send, 0.0)
            finally:
                await watch.stop()
        settled, left = await until_given_back(watch_http, options.settle_seconds)
        await asyncio.sleep(CLOSING_SECONDS)
        handles_after = num_handles(processes)
        async with _mix(options, offer, rng, transport) as mix:
            again = await mix.send_each_once()
    handles = {key: (handles_before[key], handles_after.get(key, 0)) for key in handles_before}
    return SoakRun(server, rate, tried, window, warm, again, watch.describe(), settled, left, handles)


def evaluate_soak(options: SoakOptions, out: Path) -> None:
    """Runs it, prints tables and one line of JSON, and writes `report.json` and `report.html`.

    Raises: EvaluationError, after the report is written, when something that must never happen did; and as
        `run_soak`.
    """
    from steer_server.evaluation.load.soak_report import sections, soak_results, tables, verdicts

    results = soak_results(asyncio.run(run_soak(options)), options)
    write_all(out, "A mixed load for minutes", results, sections(results), tables(results))
    found = verdicts(results)
    print(json.dumps({verdict.name: verdict.is_shown for verdict in found}))
    check_shown(found, out)


@asynccontextmanager
async def _mix(
    options: SoakOptions, offer: Offer, rng: random.Random, transport: httpx.AsyncBaseTransport | None
) -> AsyncIterator[Mix]:
    """Clients of their own, who are all gone at the end."""
    slow = transport or httpx.AsyncHTTPTransport(
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)],
    )
    seconds = options.hang_seconds
    async with (
        http_client(options.url, options.api_key, transport, CONNECTIONS, seconds) as http,
        http_client(options.url, options.api_key, slow, CONNECTIONS, seconds) as slow_http,
    ):
        yield Mix(
            http,
            slow_http,
            Vectors(offer, rng, options.blend),
            rng,
            bad_requests(offer, options.oversized_bytes),
            options.max_tokens,
            options.pause_seconds,
            options.hang_seconds,
        )


async def _rate(options: SoakOptions, rng: random.Random, mix: Mix) -> tuple[float, list[Window[Asked]]]:
    if options.rate:
        return options.rate, []

    async def measure(rate: float) -> Window[Asked]:
        return await run_window("soak", rate, options.search_seconds, Arrivals.POISSON, rng, mix.send)

    rate, tried = await find_sustained_rate(measure, FIRST_RATE)
    if not rate:
        slowest = min(window.rate for window in tried)
        raise EvaluationError(f"not even {slowest:.2g} requests per second are sustained; give --rate")
    return rate, tried
