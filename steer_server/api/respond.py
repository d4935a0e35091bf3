"""From a plan to a response: leases the slots, runs the engine, encodes, and gives everything back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from steer_server.api.encode import PLAN_HEADER, Timings, steering_object, with_last_chunk
from steer_server.api.running import RunningRequests
from steer_server.catalogue.snapshot import Catalogue
from steer_server.engine.base import Engine, EngineRun, Route
from steer_server.engine.leases import Lease, SlotLeases
from steer_server.errors import CLIENT_CLOSED_STATUS, AbortedError, CapacityError, SteerError
from steer_server.metrics import Metrics
from steer_server.steering.plan import SteeringPlan


@dataclass(eq=False)
class Held:
    """What one request holds in the engine. `give_back` may be called more than once; it acts once."""

    run: EngineRun
    lease: Lease | None
    on_end: Callable[[Held], None]
    aborted: AbortedError | None = None
    """Why the request was ended by the server."""
    _ending: asyncio.Task[None] | None = field(default=None)

    def abort(self, reason: str) -> None:
        """Stops the engine's work; the answer that it then ends with is replaced by an error."""
        if self._ending is None:
            self.aborted = AbortedError(reason)
            self.give_back()

    def give_back(self) -> asyncio.Task[None]:
        """Stops the run, then frees its slots: in this order, so that no slot changes under a running
        request. Goes on to the end even when the caller is cancelled."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())
        return self._ending

    async def _end(self) -> None:
        try:
            await self.run.stop()
        finally:
            if self.lease is not None:
                self.lease.release()
            self.on_end(self)


class HeldStream(StreamingResponse):
    """A stream that gives back what it holds however it ends, even when it never began."""

    def __init__(self, events: AsyncIterator[str], held: Held, headers: dict[str, str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self.held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await asyncio.shield(self.held.give_back())


async def respond(
    engine: Engine,
    leases: SlotLeases,
    running: RunningRequests,
    metrics: Metrics,
    route: Route,
    body: dict[str, Any],
    plan: SteeringPlan,
    catalogue: Catalogue,
    request: Request,
    *,
    timings: Timings,
    describe: bool,
) -> Response:
    """The response to one request under one plan.

    Args:
        catalogue: the snapshot that the plan was made with.
        describe: write the `steering` object; off for clients that did not ask for steering.
    """
    lease = None
    if not plan.is_base:
        adapters = [catalogue.by_digest[gate.digest] for gate in plan.adapters]
        try:
            lease = await leases.acquire(adapters)
        except CapacityError:
            metrics.refused_total.inc()
            raise
        timings.queue_seconds = lease.waited_seconds
        metrics.slot_wait_seconds.observe(lease.waited_seconds)
    metrics.running.labels(plan.method).inc()
    digests = [gate.digest for gate in plan.adapters]

    def on_end(held: Held) -> None:
        running.remove(held, digests)
        metrics.running.labels(plan.method).dec()

    held = Held(engine.run(route, body, plan, request), lease, on_end)
    running.add(held, digests)
    headers = {PLAN_HEADER: plan.digest}
    try:
        if held.aborted is not None:
            raise held.aborted
        answer = await held.run.answer()
    except BaseException as error:
        await asyncio.shield(held.give_back())
        if held.aborted is not None and isinstance(error, Exception):
            raise held.aborted from error
        raise
    if answer.events is not None:
        events = _until_aborted(answer.events, held)
        if describe:
            events = with_last_chunk(events, lambda: steering_object(plan, timings))
        return HeldStream(events, held, headers)
    await asyncio.shield(held.give_back())
    if held.aborted is not None:
        raise held.aborted
    assert answer.body is not None
    if describe:
        answer.body["steering"] = steering_object(plan, timings)
    return JSONResponse(answer.body, headers=headers)


async def _until_aborted(events: AsyncIterator[str], held: Held) -> AsyncIterator[str]:
    """The same events; when the request was ended by the server, an error in place of the rest."""
    try:
        async for event in events:
            if held.aborted is not None:
                break
            yield event
    except Exception:
        if held.aborted is None:
            raise
    if held.aborted is not None:
        yield f"data: {json.dumps(held.aborted.body())}\n\n"
        yield "data: [DONE]\n\n"


async def until_disconnect(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The result of `work`, which is cancelled, and waited for, when the client goes away first.

    The request's body must have been read already: its messages are consumed here.
    """
    working = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait([working, gone], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
            await asyncio.wait([working])
            if working.cancelled():
                return Response(status_code=CLIENT_CLOSED_STATUS)
        return working.result()
    except asyncio.CancelledError:
        working.cancel()
        raise
    finally:
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def error_response(error: SteerError) -> JSONResponse:
    return JSONResponse(error.body(), status_code=error.http_status, headers=error.headers)


def started_now() -> Timings:
    return Timings(started=time.perf_counter())
