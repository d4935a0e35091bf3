"""Asks for a key on every route but a few that say nothing of anybody, vLLM's own routes included."""

from __future__ import annotations

from contextlib import AsyncExitStack

from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from steer_server.api.keys import Caller
from steer_server.api.respond import error_response
from steer_server.errors import SteerError
from steer_server.state import Server

OPEN_PATHS = (
    "/health",
    "/ready",
    "/metrics",
    "/ping",
    "/version",
    "/load",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/playground",
)
"""With what is below them. Everything else is guarded, so that a route that vLLM adds is not open by
accident: `/invocations` generates, and `/tokenize` works for whoever asks."""
ADMINISTRATION = ("/v1/adapters", "/v1/audit", "/v1/keys", "/v1/load_lora_adapter", "/v1/unload_lora_adapter")
"""These need an operator's key, and are refused before their bodies are read."""
READABLE = ("/v1/adapters",)
"""Administration that any key may look at."""


class KeyGuard:
    """ASGI middleware. Finds the caller, refuses strangers, and holds the key's place until the answer has
    ended, streams included. The route reads `caller_of(request)`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or is_open(scope):
            await self.app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        server: Server = connection.app.state.steer
        async with AsyncExitStack() as held:
            try:
                if _needs_operator(scope):
                    caller = await server.keys.operator(connection)
                else:
                    caller = await server.keys.application(connection)
                await held.enter_async_context(server.keys.admit(caller))
            except SteerError as error:
                server.metrics.key_refusals_total.labels(error.code).inc()
                await error_response(error)(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
            await self.app(scope, receive, send)


def caller_of(request: Request) -> Caller:
    """Who asks, as the guard found."""
    caller: Caller = request.state.caller
    return caller


def is_open(scope: Scope) -> bool:
    """Whether anybody may ask for this path."""
    return _is_under(_path(scope), OPEN_PATHS)


def _needs_operator(scope: Scope) -> bool:
    is_looking = scope.get("method") in ("GET", "HEAD")
    path = _path(scope)
    return _is_under(path, ADMINISTRATION) and not (is_looking and _is_under(path, READABLE))


def _path(scope: Scope) -> str:
    """The path as routes see it, behind a proxy's prefix too."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root and path.startswith(f"{root.rstrip('/')}/") else path


def _is_under(path: str, prefixes: tuple[str, ...]) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in prefixes)
