"""`bench metrics-cost`: by how much counting what a server does can slow it down, at most.

Two servers side by side, one without metrics, would differ by less than machines drift. So the time that the
metrics' own code takes is measured by itself, in this process, and multiplied by what a running server does
per second under load:

    share <= seconds per request * requests/s + seconds per token * tokens/s + seconds per scrape / interval

as if nothing else could be done meanwhile. Run it on the server's machine.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import httpx
from prometheus_client import CollectorRegistry
from starlette.responses import Response

from steer_server.api.held import Held, HeldStream
from steer_server.api.respond import started_now
from steer_server.api.watch import RequestWatch
from steer_server.errors import EvaluationError
from steer_server.evaluation.client import ServerClient
from steer_server.evaluation.html import Section, Table, write_all
from steer_server.evaluation.load.latency import CONNECTIONS, Asker, Timed
from steer_server.evaluation.load.offer import Vectors, read_offer
from steer_server.evaluation.report import commit
from steer_server.evaluation.streaming import http_client
from steer_server.evaluation.verdicts import Verdict, check_shown, verdict_table
from steer_server.metrics import Metrics
from steer_server.progress import Progress
from steer_server.steering.plan import AdapterGate, SteeringPlan
from steer_server.together import together

MAX_SHARE = 0.01
SCRAPE_INTERVAL_SECONDS = 15.0
"""That of the shipped configuration."""
NUM_SCRAPES = 20
LONG, SHORT = 65, 1
"""Tokens of the two streams whose difference tells a token's cost from a request's."""
NUM_STREAMS, NUM_REPEATS = 200, 7
TIMEOUT_SECONDS = 120.0

EVENT = (
    'data: {"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1760000000,'
    '"model":"smollm2","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,'
    '"finish_reason":null,"token_ids":null}]}\n\n'
)
"""As vLLM sends it."""


@dataclass(frozen=True)
class MetricsCostOptions:
    url: str
    api_key: str = ""
    streams: int = 32
    """Under way at once."""
    seconds: float = 60.0
    """Of load."""
    max_tokens: int = 64
    blend: int = 3
    """Adapters of a request: each has metrics of its own."""
    seed: int = 20261122

    def describe(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if k not in ("api_key", "url")}


@dataclass(frozen=True)
class CodeCost:
    """CPU seconds of the metrics' own code."""

    request_seconds: float
    """Of a streamed request with one token."""
    token_seconds: float
    """Of each further token."""


async def measure_code(num_adapters: int, num_streams: int = NUM_STREAMS) -> CodeCost:
    """What a stream under a blend of so many adapters costs with metrics, less what it costs without; the
    quickest of several repeats."""
    plan = SteeringPlan(
        "adapters", tuple(AdapterGate(f"a{i}", "1.0.0", f"d{i}", 0.5) for i in range(num_adapters))
    )
    metrics = Metrics(CollectorRegistry())
    metrics.adapters.keep(f"a{i}@1.0.0" for i in range(num_adapters))
    quickest: dict[tuple[int, bool], float] = {}
    for _ in range(NUM_REPEATS):
        for num_tokens in (SHORT, LONG):
            for is_watched in (False, True):
                started = time.process_time()
                for _ in range(num_streams):
                    await _stream(num_tokens, metrics if is_watched else None, plan)
                taken = (time.process_time() - started) / num_streams
                key = (num_tokens, is_watched)
                quickest[key] = min(taken, quickest.get(key, taken))
    short, long = (quickest[num, True] - quickest[num, False] for num in (SHORT, LONG))
    return CodeCost(short, (long - short) / (LONG - SHORT))


async def _stream(num_tokens: int, metrics: Metrics | None, plan: SteeringPlan) -> None:
    """One stream, read to its end; with all that a steered request leaves in the metrics."""

    async def events() -> AsyncIterator[str]:
        for _ in range(num_tokens):
            yield EVENT

    if metrics is None:
        async for _ in events():
            pass
        return
    watch = RequestWatch(metrics, "chat", started_now())
    watch.plan = plan
    metrics.plan_seconds.observe(1e-5)
    metrics.note_slot_wait(plan, 0.0)
    metrics.begin_run(plan)

    async def work() -> Response:
        # It holds nothing: only its events are read.
        return HeldStream(events(), cast(Held, None), {})

    async for _ in cast(HeldStream, await watch.response(work())).body_iterator:
        pass
    metrics.end_run(plan)


async def run_metrics_cost(
    options: MetricsCostOptions, transport: httpx.AsyncBaseTransport | None = None
) -> dict[str, Any]:
    """The results. Raises: EvaluationError when the server cannot be used, or answers nothing.

    Args:
        transport: for tests.
    """
    commit()
    code = await measure_code(options.blend)
    async with ServerClient(options.url, options.api_key) as client:
        server = await client.info()
    async with http_client(options.url, options.api_key, transport, CONNECTIONS, TIMEOUT_SECONDS) as http:
        offer = await read_offer(http, server.model)
        rng = random.Random(options.seed)
        method = "adapters" if "adapters" in offer.methods else "none"
        vectors = Vectors(offer, rng, options.blend)
        asker = Asker(http, offer, vectors, rng, method, options.max_tokens, TIMEOUT_SECONDS)
        answered = await _load(asker, options)
        scrape_seconds = await _scrape(http)
    # What was still under way at the end counts too: rather too much than too little.
    per_second = {
        "requests": len(answered) / options.seconds,
        "tokens": sum(one.num_tokens for one in answered) / options.seconds,
    }
    shares = {
        "requests": code.request_seconds * per_second["requests"],
        "tokens": code.token_seconds * per_second["tokens"],
        "scrapes": scrape_seconds / SCRAPE_INTERVAL_SECONDS,
    }
    return {
        "server": server.describe(),
        "options": options.describe(),
        "method": method,
        "code": {key: round(value, 9) for key, value in asdict(code).items()},
        "scrape_seconds": round(scrape_seconds, 5),
        "per_second": {key: round(value, 3) for key, value in per_second.items()},
        "shares": {key: round(value, 6) for key, value in shares.items()},
        "share": round(sum(shares.values()), 6),
    }


def evaluate_metrics_cost(options: MetricsCostOptions, out: Path) -> None:
    """Measures, prints tables and one line of JSON, and writes `report.json` and `report.html`.

    Raises: EvaluationError, after the report is written, when the share is 1 % or more; and as
        `run_metrics_cost`.
    """
    results = asyncio.run(run_metrics_cost(options))
    found = verdict(results)
    tables = [verdict_table([found]), cost_table(results)]
    text = (__doc__ or "").partition("\n\n")[2].replace("\n    share", "\nshare")
    write_all(out, "What metrics cost", results, [Section("At most", text, tables)], tables)
    print(json.dumps({"share": results["share"], **results["shares"]}))
    check_shown([found], out)


def verdict(results: Mapping[str, Any]) -> Verdict:
    share = results["share"]
    return Verdict(
        "metrics_cost_little", share < MAX_SHARE, f"at most {share:.3%}; to be below {MAX_SHARE:.0%}"
    )


def cost_table(results: Mapping[str, Any]) -> Table:
    code, per_second, shares = results["code"], results["per_second"], results["shares"]
    rows = [
        [
            "request",
            f"{code['request_seconds'] * 1e6:.1f}",
            f"{per_second['requests']:.2f}",
            f"{shares['requests']:.4%}",
        ],
        [
            "token",
            f"{code['token_seconds'] * 1e6:.2f}",
            f"{per_second['tokens']:.1f}",
            f"{shares['tokens']:.4%}",
        ],
        [
            "scrape, vLLM's metrics included",
            f"{results['scrape_seconds'] * 1e6:.0f}",
            f"{1 / SCRAPE_INTERVAL_SECONDS:.3f}",
            f"{shares['scrapes']:.4%}",
        ],
    ]
    return Table(["of each", "µs", "per second", "share of time"], rows)


async def _load(asker: Asker, options: MetricsCostOptions) -> list[Timed]:
    """Streams that were answered, so many at once, none begun after `seconds`."""
    answered: list[Timed] = []
    ends = time.perf_counter() + options.seconds
    num_seconds = max(1, round(options.seconds))

    async def ask_on() -> None:
        while time.perf_counter() < ends:
            one = await asker.send(time.perf_counter())
            answered.extend([] if one.problem else [one])

    async def show() -> None:
        for _ in range(num_seconds):
            await asyncio.sleep(options.seconds / num_seconds)
            progress.advance()

    with Progress("load", num_seconds, "seconds") as progress:
        await together([show(), *(ask_on() for _ in range(options.streams))])
    if not answered:
        raise EvaluationError("no request was answered under load")
    return answered


async def _scrape(http: httpx.AsyncClient) -> float:
    """Seconds of one, the quickest of several: what else this machine does is not their cost.

    Raises: EvaluationError when the server has no metrics.
    """
    taken = []
    for _ in range(NUM_SCRAPES):
        started = time.perf_counter()
        try:
            (await http.get("/metrics")).raise_for_status()
        except httpx.HTTPError as error:
            raise EvaluationError(f"/metrics does not answer: {error!r}") from error
        taken.append(time.perf_counter() - started)
    return min(taken)
