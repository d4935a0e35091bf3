"""Sees every HTTP request from its arrival to its last byte: gives it an id, a span and a line in the log.

Not covered: what is answered outside of the app's own middleware, such as CORS preflights; and the header on
the 500 of an unexpected exception, which is written there too. Its line has the id.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steer_server.observing.request import ObservedRequest, current_request
from steer_server.observing.spans import (
    NO_SPAN,
    Kind,
    Tracer,
    current_tracer,
    error_type,
    trace_headers,
)

logger = logging.getLogger("steer_server.requests")

HEADER = "X-Request-Id"
REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
"""What a client may call its request. Anything else is taken for none: it goes into headers and logs."""
QUIET_ROUTES = frozenset({"/health", "/ready", "/metrics", "/ping", "/load"})
"""Asked every few seconds by whoever watches the server."""
MAX_PATH_CHARACTERS = 256


class RequestObserver:
    """ASGI middleware; add it last, so that it sees what the others refuse."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = MutableHeaders(scope=scope)
        request = ObservedRequest(_request_id(headers))
        # vLLM's handlers make their ids of it.
        headers[HEADER] = request.id
        tracer = None if _route(scope) in QUIET_ROUTES else _tracer(scope)
        if tracer is not None:
            request.span = tracer.begin(scope["method"], _arrival(scope, request), Kind.SERVER, headers)
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request.id
            await send(message)

        as_request, as_traced = current_request.set(request), current_tracer.set(tracer)
        try:
            with request.span.entered():
                # vLLM's own routes look for them here.
                headers.update(trace_headers())
                await self.app(scope, receive, send_with_id)
        except BaseException as error:
            request.note_error(error_type(error))
            status = status or 500
            raise
        finally:
            _end_span(scope, request, status)
            _log(scope, request, status, time.perf_counter() - started)
            current_request.reset(as_request)
            current_tracer.reset(as_traced)


def _request_id(headers: Headers) -> str:
    given = headers.get(HEADER, "")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _tracer(scope: Scope) -> Tracer | None:
    server: Any = getattr(scope["app"].state, "steer", None)
    return getattr(server, "tracer", None)


def _route(scope: Scope) -> str:
    """The template that matched, when the request has been routed; else its path."""
    path: str = getattr(scope.get("route"), "path", None) or scope["path"].rstrip("/") or "/"
    return path[:MAX_PATH_CHARACTERS]


def _client(scope: Scope) -> str | None:
    return scope["client"][0] if scope.get("client") else None


def _arrival(scope: Scope, request: ObservedRequest) -> dict[str, str | None]:
    return {
        "http.request.method": scope["method"],
        "url.path": scope["path"][:MAX_PATH_CHARACTERS],
        "url.scheme": scope.get("scheme", "http"),
        "client.address": _client(scope),
        "steer.request_id": request.id,
    }


def _end_span(scope: Scope, request: ObservedRequest, status: int | None) -> None:
    span = request.span
    if span is NO_SPAN:
        return
    route = _route(scope)
    span.rename(f"{scope['method']} {route}")
    span.set({"http.route": route, "http.response.status_code": status, **request.attributes()})
    # A client's fault is no failure of ours.
    if request.outcome == "failed" or (status or 500) >= 500:
        span.fail(request.error_code or str(status))
    span.end()


def _log(scope: Scope, request: ObservedRequest, status: int | None, seconds: float) -> None:
    has_failed = (status or 500) >= 500
    if _route(scope) in QUIET_ROUTES and not has_failed:
        return
    fields = {
        "request_id": request.id,
        "trace_id": request.span.trace_id,
        "http_method": scope["method"],
        "route": _route(scope),
        "status": status,
        "client": _client(scope),
        "duration_ms": round(seconds * 1000, 3),
        **request.fields(),
    }
    level = logging.ERROR if has_failed else logging.INFO
    known = {name: value for name, value in fields.items() if value is not None}
    logger.log(level, "%s %s %s", scope["method"], _route(scope), status, extra=known)
