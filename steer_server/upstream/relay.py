"""A request passed on to an upstream: another implementer of `engine.base.EngineRun`, without steering.

Before the first event of an answer a failure is an error with its status; after it, an event in the stream.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
from starlette.requests import Request

from steer_server.engine.base import Answer, Route
from steer_server.errors import UpstreamRefusal
from steer_server.steering.plan import SteeringPlan
from steer_server.upstream.breaker import Permit
from steer_server.upstream.client import Upstream
from steer_server.upstream.events import DONE, KEEP_ALIVE, EventReader, event, is_answer, read_chunk
from steer_server.upstream.failures import OPERATORS_FAULT, Failure, cut, garbled, too_slow, unusable

PATHS: dict[Route, str] = {"chat": "chat/completions", "completion": "completions"}
MAX_BODY_BYTES = 64 * 2**20
DRAIN_SECONDS = 0.2
"""How long the end of a response is waited for after its last event, so that its connection is used again.
It mostly came with that event."""

logger = logging.getLogger("steer_server.upstream")


class Relay:
    """`engine.base.Runner` for the models of one upstream."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream

    @property
    def provider(self) -> str:
        return self.upstream.name

    def run(self, route: Route, body: dict[str, Any], plan: SteeringPlan, request: Request) -> RelayRun:
        """Only the body goes on, and the trace: the client's headers hold a key of ours."""
        if not plan.is_base:
            raise AssertionError("an upstream's weights cannot be steered")
        return RelayRun(self.upstream, route, body)


class RelayRun:
    """One request's use of an upstream."""

    def __init__(self, upstream: Upstream, route: Route, body: dict[str, Any]) -> None:
        self.upstream = upstream
        self.path = PATHS[route]
        self.prefix = f"{upstream.name}/"
        self.body = {**body, "model": body["model"].removeprefix(self.prefix)}
        self._permit: Permit | None = None
        self._sending: asyncio.Task[httpx.Response] | None = None
        self._is_stopped = False

    async def answer(self) -> Answer:
        self._permit = self.upstream.breaker.admit()
        try:
            return await (self._stream() if self.body.get("stream") else self._whole())
        except Failure as failure:
            self._end(failure.outcome, failure.has_failed)
            raise failure.error from failure

    async def stop(self) -> None:
        """The upstream sees its client leave, and need not go on."""
        self._is_stopped = True
        self._end("client_left", None)
        if self._sending is not None:
            self._sending.cancel()
            # It may have come to its end in this moment.
            await asyncio.wait([self._sending])
            if not self._sending.cancelled() and self._sending.exception() is None:
                await self._sending.result().aclose()

    async def _whole(self) -> Answer:
        async with self._first_byte() as deadline:
            pieces = self.upstream.pieces(await self._send(deadline))
            parts = [await anext(pieces, b"")]
        num_bytes = len(parts[0])
        async for part in pieces:
            parts.append(part)
            num_bytes += len(part)
            if num_bytes > MAX_BODY_BYTES:
                raise garbled(self.upstream.name, "sent an answer that is too large")
        try:
            document = self.upstream.cleaner.document(b"".join(parts).decode())
        except ValueError as error:
            raise garbled(self.upstream.name, "sent something that is not a JSON object") from error
        if "error" in document and "choices" not in document:
            raise self._told(document)
        if not is_answer(document):
            raise garbled(self.upstream.name, "sent JSON that is not an answer")
        self._end("2xx", False)
        return Answer(body=self._renamed(document))

    async def _stream(self) -> Answer:
        async with self._first_byte() as deadline:
            response = await self._send(deadline)
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise garbled(self.upstream.name, "was asked for a stream and sent something else")
            pieces = self.upstream.pieces(response)
            chunks = self._chunks(pieces)
            while (first := await anext(chunks, None)) == KEEP_ALIVE:
                pass
        assert self._permit is not None
        self._permit.first_byte()
        return Answer(events=self._events(first, chunks, pieces))

    async def _events(
        self, first: str | None, chunks: AsyncIterator[str], pieces: AsyncIterator[bytes]
    ) -> AsyncGenerator[str]:
        try:
            if first is not None:
                yield first
            async for chunk in chunks:
                yield chunk
        except Failure as failure:
            self._end(failure.outcome, failure.has_failed)
            yield event(failure.error.body())
            yield f"data: {DONE}\n\n"
            return
        # All of this before the last event: clients leave when they have it.
        self._end("2xx", False)
        with suppress(TimeoutError, Failure):
            async with asyncio.timeout(DRAIN_SECONDS):
                async for _ in pieces:
                    pass
        yield f"data: {DONE}\n\n"

    async def _chunks(self, pieces: AsyncIterator[bytes]) -> AsyncGenerator[str]:
        """The events before `[DONE]`. Raises: Failure when they are no chunks, or end without it."""
        reader = EventReader()
        try:
            async for piece in pieces:
                for data in reader.feed(piece):
                    if data == DONE:
                        return
                    if data is None:
                        yield KEEP_ALIVE
                        continue
                    chunk = read_chunk(data, self.upstream.cleaner)
                    if "error" in chunk:
                        raise self._told(chunk)
                    yield event(self._renamed(chunk))
        except ValueError as error:
            raise garbled(self.upstream.name, "sent something that is not a chunk of an answer") from error
        raise cut(self.upstream.name)

    @asynccontextmanager
    async def _first_byte(self) -> AsyncGenerator[float]:
        """Holds what leads to the first byte to its deadline, which is given, and measures it."""
        seconds = self.upstream.patience.first_byte
        started = time.perf_counter()
        try:
            async with asyncio.timeout(seconds) as timeout:
                yield timeout.when() or 0.0
        except TimeoutError as error:
            raise too_slow(self.upstream.name, "sent nothing", seconds) from error
        first_byte_seconds = self.upstream.metrics.upstream_first_byte_seconds
        first_byte_seconds.labels(self.upstream.name).observe(time.perf_counter() - started)

    async def _send(self, deadline: float) -> httpx.Response:
        """A task of its own, so that `stop` can end it before the upstream has said anything."""
        self._sending = asyncio.create_task(self.upstream.post(self.path, self.body, deadline))
        try:
            return await self._sending
        except asyncio.CancelledError:
            if not self._is_stopped:
                raise
            raise cut(self.upstream.name) from None

    def _told(self, document: dict[str, Any]) -> Failure:
        """An error that came in place of an answer, under a status of 200."""
        name = self.upstream.name
        detail = self.upstream.cleaner.error_detail(document, f"The upstream {name!r} ended with an error.")
        status = detail["code"]
        if type(status) is int and 400 <= status < 500 and status not in OPERATORS_FAULT:
            return Failure(UpstreamRefusal({"error": detail}, status), "4xx", has_failed=False)
        return unusable(name, "upstream_failed", f"ended with an error: {detail['message']}")

    def _renamed(self, document: dict[str, Any]) -> dict[str, Any]:
        model = document.get("model")
        return {**document, "model": f"{self.prefix}{model}"} if isinstance(model, str) else document

    def _end(self, outcome: str, has_failed: bool | None) -> None:
        """The last attempt has ended; only the first call counts."""
        if self._permit is None or self._permit.has_ended:
            return
        self._permit.end(has_failed)
        self.upstream.count(outcome)
        if has_failed:
            logger.warning("upstream %s: %s", self.upstream.name, outcome)
