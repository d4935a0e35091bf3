"""Requests of a few tokens to one server, and the CPU time that each costs the server's processes."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from steer_server.api.encode import DONE, PLAN_HEADER
from steer_server.errors import EvaluationError
from steer_server.evaluation.overhead.servers import OURS, STOCK, MeasuredServer
from steer_server.evaluation.samples import CHAT_PATH
from steer_server.together import together

REQUEST_SECONDS = 600.0
NUM_BLENDED = 3
STEPS = 1000
"""Of a weight: plans that differ by less are the same."""
_HAS_TOKEN = re.compile(r'"delta":\s*\{[^}]*"content":\s*"[^"]')


@dataclass(frozen=True)
class Way:
    """One kind of request to one server."""

    server: str
    is_steered: bool
    is_streamed: bool

    @property
    def label(self) -> str:
        steered = ", steered" if self.is_steered else ""
        return f"{self.server}{steered}{', streamed' if self.is_streamed else ''}"


WAYS = tuple(
    Way(server, is_steered, is_streamed)
    for is_streamed in (False, True)
    for server, is_steered in ((STOCK, False), (OURS, False), (OURS, True))
)


@dataclass(frozen=True)
class Cost:
    """Of a number of requests, per request."""

    api_ms: float
    """CPU time of the API process."""
    engine_ms: float
    """CPU time of the engine's processes."""
    wall_ms: float
    """Of all requests at their concurrency, divided by their number."""
    first_token_ms: float | None
    """From a request to the first piece of its answer, median of streams; None of answers in one piece."""


@dataclass(frozen=True)
class Load:
    """What is asked."""

    model: str
    cultures: Sequence[str]
    """Of which steered requests blend `NUM_BLENDED`, or two if there are no more."""
    num_tokens: int
    concurrency: int

    def body(self, number: int, *, is_steered: bool, is_streamed: bool) -> dict[str, Any]:
        """The same for equal numbers, but for a plan that no other number has."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": f"Person {number % 64} asks: what matters in life?"}],
            "max_tokens": self.num_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": is_streamed,
        }
        if is_steered:
            body["steering"] = {"cultures": distinct_blend(self.cultures, number)}
        return body


def distinct_blend(cultures: Sequence[str], number: int) -> dict[str, float]:
    """Weights of neighbouring cultures, beginning with number k mod their number; no two k below 400,000 give
    the same blend.

    Semantics: in steps of 0.001 the first weight is 1 + k mod 999, the second 1 + k div 999, the third 500.

    Args:
        cultures: at least two.
    """
    second, first = divmod(number, STEPS - 1)
    weights = ((1 + first) / STEPS, (1 + second) / STEPS, 0.5)
    turned = [cultures[(number + i) % len(cultures)] for i in range(min(NUM_BLENDED, len(cultures)))]
    return dict(zip(turned, weights, strict=False))


class Asker:
    """Sends the requests of a load."""

    def __init__(self, server: MeasuredServer, load: Load) -> None:
        self.server, self.load = server, load
        self.plans: set[str] = set()
        """Digests that steered requests were answered under."""

    async def measure(
        self,
        numbers: Sequence[int],
        *,
        is_steered: bool,
        is_streamed: bool,
        on_answer: Callable[[], None] = lambda: None,
    ) -> Cost:
        """What these requests cost. Raises: EvaluationError for the first that is not answered as it should
        be: with another status, without its end, or steered under a plan of another one."""
        waiting = iter(numbers)
        first_tokens: list[float] = []
        limits = httpx.Limits(max_connections=self.load.concurrency)
        before = len(self.plans)
        async with httpx.AsyncClient(
            base_url=self.server.url, timeout=REQUEST_SECONDS, limits=limits
        ) as http:

            async def work() -> None:
                for number in waiting:
                    body = self.load.body(number, is_steered=is_steered, is_streamed=is_streamed)
                    first_tokens.extend(await self._ask(http, body))
                    on_answer()

            cpu, started = self.server.cpu_seconds(), time.perf_counter()
            try:
                await together(work() for _ in range(self.load.concurrency))
            except httpx.HTTPError as error:
                raise EvaluationError(f"{self.server.name} does not answer: {error!r}") from error
            seconds = time.perf_counter() - started
            api, engine = (
                after - at_first for after, at_first in zip(self.server.cpu_seconds(), cpu, strict=True)
            )
        if is_steered and len(self.plans) - before != len(numbers):
            raise EvaluationError(f"{len(numbers)} blends gave {len(self.plans) - before} new plans")
        per_request = 1000 / len(numbers)
        first_token_ms = 1000 * statistics.median(first_tokens) if first_tokens else None
        return Cost(api * per_request, engine * per_request, seconds * per_request, first_token_ms)

    async def _ask(self, http: httpx.AsyncClient, body: Mapping[str, Any]) -> list[float]:
        """Seconds to the first piece of a stream that has one."""
        sent, pieces, first_token = time.perf_counter(), list[str](), list[float]()
        async with http.stream("POST", CHAT_PATH, json=body) as response:
            async for piece in response.aiter_text():
                pieces.append(piece)
                if not first_token and _HAS_TOKEN.search(piece):
                    first_token.append(time.perf_counter() - sent)
        text = "".join(pieces)
        if response.status_code != 200:
            raise EvaluationError(f"{self.server.name} answers {response.status_code}: {text[:300]}")
        if body["stream"]:
            events = [event for event in text.split("\n\n") if event]
            if events[-1] != DONE or any('"error"' in event[:20] for event in events):
                raise EvaluationError(f"{self.server.name} cut a stream: {text[-300:]}")
            last = json.loads(events[-2].removeprefix("data: "))
        else:
            last = json.loads(text)
        if "steering" in body:
            if last.get("steering", {}).get("plan") != response.headers.get(PLAN_HEADER):
                raise EvaluationError(f"{self.server.name} answered without saying how: {text[-300:]}")
            self.plans.add(response.headers[PLAN_HEADER])
        return first_token
