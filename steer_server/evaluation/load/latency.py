"""`bench latency`: how long streams of a running server take at fixed rates, by method; every request has a
vector of its own.

All times count from when a request was due (`open_loop.py`):
first token   to the first event with text
per token     from the first token to the last, over the tokens after the first, as `usage` counts them; of
              streams that come as they are generated, which those of best_of_n and diffpo do not
whole         to the end of the stream
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from steer_server.errors import EvaluationError
from steer_server.evaluation.client import ServerClient, ServerInfo
from steer_server.evaluation.html import write_all
from steer_server.evaluation.load.offer import Offer, Vectors, read_offer
from steer_server.evaluation.load.open_loop import Arrivals, Sent, Window, find_sustained_rate, run_window
from steer_server.evaluation.report import commit
from steer_server.evaluation.streaming import PROMPTS, Refused, StreamFailed, http_client, read_stream

CONNECTIONS = 100_000
"""More than there can be: a request that waited for a connection here would not be under way."""
TEMPERATURES = {"best_of_n": 0.7}
"""By method; 0 for the others. Candidates at temperature 0 are all the same."""
FREE_END = frozenset({"diffpo"})
"""Methods that may end an answer where the model ends it; the others' have all `max_tokens`."""


@dataclass(frozen=True)
class LatencyOptions:
    url: str
    api_key: str = ""
    methods: tuple[str, ...] = ()
    """Empty: all that the server offers."""
    rates: tuple[float, ...] = (1.0,)
    """Requests per second, each by itself."""
    seconds: float = 60.0
    """Measured at each rate, after half as long of building up load."""
    rounds: int = 1
    """Of all methods and rates, interleaved: machines drift."""
    find_rate: bool = False
    """Look for each method's highest sustained rate too, from the lowest of `rates` on."""
    arrivals: Arrivals = Arrivals.POISSON
    max_tokens: int = 64
    blend: int = 3
    """Most cultures in one vector."""
    cultures: tuple[str, ...] = ()
    """Only these; empty for all."""
    timeout_seconds: float = 120.0
    """A request that takes longer has failed."""
    seed: int = 20261122

    def describe(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if k not in ("api_key", "url")}


@dataclass(frozen=True)
class Timed(Sent):
    """One stream."""

    first_token_seconds: float | None = None
    token_seconds: float | None = None
    """Mean per output token; None also where the text came at once."""
    num_tokens: int = 0
    plan: str = ""
    """Digest of what was applied."""

    @property
    def seconds(self) -> float:
        return self.ended - self.due


@dataclass
class Asker:
    """Sends streams of one method."""

    http: httpx.AsyncClient
    offer: Offer
    vectors: Vectors
    rng: random.Random
    method: str
    max_tokens: int
    timeout_seconds: float

    async def send(self, due: float) -> Timed:
        """One request. What goes wrong is in its `problem`: an error's code, or a kind of `StreamFailed`."""
        body = self.body()
        began = time.perf_counter()
        tokens: list[float] = []
        last_words: dict[str, Any] = {}

        async def listen(lines: AsyncIterator[str]) -> AsyncIterator[str]:
            async for line in lines:
                if '"usage"' in line or '"steering"' in line:
                    last_words.update(_read_event(line))
                yield line

        problem = ""
        try:
            async with asyncio.timeout(self.timeout_seconds):
                await read_stream(
                    self.http, body, on_token=lambda: tokens.append(time.perf_counter()), through=listen
                )
        except TimeoutError:
            problem = "timeout"
        except (Refused, StreamFailed) as error:
            problem = error.code
        usage, steering = last_words.get("usage") or {}, last_words.get("steering") or {}
        num_tokens = usage.get("completion_tokens", len(tokens))
        return Timed(
            due,
            began,
            time.perf_counter(),
            problem,
            tokens[0] - due if tokens else None,
            (tokens[-1] - tokens[0]) / (num_tokens - 1) if len(tokens) > 1 else None,
            num_tokens,
            steering.get("plan", ""),
        )

    def body(self) -> dict[str, Any]:
        """Its prompt begins with a number, so that not even unsteered prompts are in the prefix cache."""
        prompt = f"{self.rng.randrange(10**9)}: {self.rng.choice(PROMPTS)}"
        body = {
            "model": self.offer.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self.max_tokens,
            "temperature": TEMPERATURES.get(self.method, 0),
            "stream": True,
            "stream_options": {"include_usage": True},
            "steering": self.vectors.steering(self.method),
        }
        return body if self.method in FREE_END else {**body, "ignore_eos": True}


@dataclass
class LatencyRun:
    """What was measured, for `latency_report`."""

    server: ServerInfo
    offer: Offer
    windows: dict[tuple[str, float], list[Window[Timed]]] = field(default_factory=dict)
    """By method and rate, one of each round."""
    sustained: dict[str, tuple[float, list[Window[Timed]]]] = field(default_factory=dict)
    """By method: the rate, and what was tried."""


async def run_latency(
    options: LatencyOptions, transport: httpx.AsyncBaseTransport | None = None
) -> LatencyRun:
    """Raises: EvaluationError for a server that does not say what it offers, or a method or culture that it
    does not. Args: transport: for tests."""
    commit()
    async with ServerClient(options.url, options.api_key) as client:
        server = await client.info()
    async with http_client(
        options.url, options.api_key, transport, CONNECTIONS, options.timeout_seconds
    ) as http:
        offer = await read_offer(http, server.model, options.cultures)
        run = LatencyRun(server, offer)
        rng = random.Random(options.seed)
        vectors = Vectors(offer, rng, options.blend)
        askers = [
            Asker(http, offer, vectors, rng, method, options.max_tokens, options.timeout_seconds)
            for method in _methods(offer, options.methods)
        ]

        async def measure(asker: Asker, rate: float) -> Window[Timed]:
            return await run_window(
                f"latency {asker.method}", rate, options.seconds, options.arrivals, rng, asker.send
            )

        for asker in askers:
            await asker.send(time.perf_counter())
        for _ in range(options.rounds):
            for rate in options.rates:
                for asker in askers:
                    windows = run.windows.setdefault((asker.method, rate), [])
                    windows.append(await measure(asker, rate))
        if options.find_rate:
            for asker in askers:

                async def at(rate: float, asker: Asker = asker) -> Window[Timed]:
                    return await measure(asker, rate)

                run.sustained[asker.method] = await find_sustained_rate(at, min(options.rates))
    return run


def evaluate_latency(options: LatencyOptions, out: Path) -> None:
    """Measures, prints tables and one line of JSON, and writes `report.json` and `report.html`.

    Raises: EvaluationError; as `run_latency`, and when no request was answered.
    """
    from steer_server.evaluation.load.latency_report import headline, latency_results, sections, tables

    results = latency_results(asyncio.run(run_latency(options)), options)
    write_all(out, "Latency at fixed rates", results, sections(results), tables(results))
    print(json.dumps(headline(results)))
    if not any(run["answered"] for run in results["runs"]):
        raise EvaluationError(f"no request was answered; see {out / 'report.html'}")


def _methods(offer: Offer, wanted: Sequence[str]) -> Sequence[str]:
    if missing := sorted(set(wanted) - set(offer.methods)):
        raise EvaluationError(f"not offered: {', '.join(missing)}; there are: {', '.join(offer.methods)}")
    # The base model first: the others are compared with it.
    return sorted(wanted or offer.methods, key=lambda method: (method != "none", method))


def _read_event(line: str) -> Mapping[str, Any]:
    """What an event says beside its text; nothing for one that is none, which `read_stream` complains of."""
    try:
        event = json.loads(line.removeprefix("data: "))
    except ValueError:
        return {}
    return {key: event[key] for key in ("usage", "steering") if event.get(key)}
