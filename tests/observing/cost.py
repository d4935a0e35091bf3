"""What observing a request costs, in microseconds: `python -m tests.observing.cost` prints one JSON line.

Four stages that do nothing, not traced; the same behind the middleware, which writes a line; and that traced
as well. The best of several rounds each. What sends spans works in a thread of its own, and is not in it.
"""

from __future__ import annotations

import asyncio
import io
import json
import time
from types import SimpleNamespace
from typing import Any

from opentelemetry.sdk.trace import TracerProvider

from steer_server.observing import logs
from steer_server.observing.middleware import RequestObserver
from steer_server.observing.timings import STAGES, Timings
from steer_server.observing.tracing import OtelTracer

NUM_REQUESTS = 2000
NUM_ROUNDS = 7


async def bare(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def staged(scope: Any, receive: Any, send: Any) -> None:
    timings = Timings(time.perf_counter())
    for stage in STAGES[:4]:
        with timings.stage(stage) as made:
            made.set({"steer.method": "adapters"})
    await bare(scope, receive, send)


async def seconds(app: Any, tracer: OtelTracer | None) -> float:
    """Of one request."""

    async def send(message: Any) -> None:
        pass

    holder = SimpleNamespace(state=SimpleNamespace(steer=SimpleNamespace(tracer=tracer)))
    started = time.perf_counter()
    for _ in range(NUM_REQUESTS):
        scope = {"type": "http", "method": "POST", "path": "/v1/x", "headers": [], "app": holder}
        await app(scope, None, send)
    return (time.perf_counter() - started) / NUM_REQUESTS


async def main() -> None:
    logs.configure(io.StringIO(), as_json=True)
    ways: dict[str, tuple[Any, OtelTracer | None]] = {
        "none": (bare, None),
        "stages": (staged, None),
        "with_line": (RequestObserver(staged), None),
        "with_line_and_trace": (RequestObserver(staged), OtelTracer(TracerProvider())),
    }
    found: dict[str, float] = {}
    for _ in range(NUM_ROUNDS):
        for name, way in ways.items():
            found[name] = min(found.get(name, 1.0), await seconds(*way))
    base = found.pop("none")
    print(json.dumps({f"{name}_us": round((one - base) * 1e6, 1) for name, one in found.items()}))


if __name__ == "__main__":
    asyncio.run(main())
