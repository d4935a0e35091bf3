"""Counts requests, vLLM's own routes included, and refuses them once the server was told to stop."""

from __future__ import annotations

from contextlib import ExitStack

from starlette.types import ASGIApp, Receive, Scope, Send

from steer_server.api.key_guard import is_open
from steer_server.api.respond import error_response
from steer_server.errors import NotReadyError
from steer_server.state import Server


class DrainGuard:
    """ASGI middleware. A request is under way from its arrival to the last byte of its answer; those that ask
    how the server is are answered to the end, and not waited for."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_open(scope):
            await self.app(scope, receive, send)
            return
        server: Server = scope["app"].state.steer
        with ExitStack() as under_way:
            try:
                under_way.enter_context(server.drain.admit())
            except NotReadyError as error:
                await error_response(error)(scope, receive, send)
                return
            await self.app(scope, receive, send)
