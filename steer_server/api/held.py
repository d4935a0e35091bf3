"""What a request holds in the engine, its run and its slots, until it is given back, however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from steer_server.engine.base import EngineRun
from steer_server.engine.leases import Lease
from steer_server.errors import SteerError


@dataclass(eq=False)
class Held:
    """What one request holds in the engine. `give_back` may be called more than once; it acts once."""

    run: EngineRun
    lease: Lease | None
    on_end: Callable[[Held], None]
    aborted: SteerError | None = None
    """Why the request was ended by the server."""
    _ending: asyncio.Task[None] | None = field(default=None)

    def abort(self, error: SteerError) -> None:
        """Stops the engine's work; the answer that it then ends with is replaced by an error."""
        if self._ending is None:
            self.aborted = error
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
        self.on_end: Callable[[], Awaitable[None]] | None = None
        """Called last."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await asyncio.shield(self.held.give_back())
            if self.on_end is not None:
                await self.on_end()
