"""Refuses `steering` on routes that would ignore it. vLLM takes unknown fields in silence; we do not."""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steer_server.api.json_body import BodySize
from steer_server.api.openai_routes import STEERED_HEADER, STEERED_PATHS
from steer_server.api.respond import error_response
from steer_server.api.source import FIELD, HEADER
from steer_server.errors import BodyTooLargeError, RequestError

UNREAD_PATHS = STEERED_PATHS | {"/v1/adapters"}
"""Uploads are large, and no steering is expected in them."""


class SteeringGuard:
    """ASGI middleware. Reads the body of POSTs to other routes and passes it on unchanged."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or _path(scope) in UNREAD_PATHS:
            await self.app(scope, receive, send)
            return
        path = _path(scope)
        if any(name.lower() == STEERED_HEADER for name, _ in scope["headers"]):
            await _refuse(path, HEADER)(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if headers.get("content-type", "").startswith("multipart/"):  # a recording: large, and no JSON
            await self.app(scope, receive, send)
            return
        try:
            size = BodySize(headers, scope["app"].state.steer.max_body_bytes)
            messages = await _read(size, receive)
        except BodyTooLargeError as error:
            await error_response(error)(scope, receive, send)
            return
        body = b"".join(message.get("body", b"") for message in messages)
        if _has_steering(body):
            await _refuse(path, FIELD)(scope, receive, send)
            return
        replay = iter(messages)

        async def receive_again() -> Message:
            return next(replay, None) or await receive()

        await self.app(scope, receive_again, send)


async def _read(size: BodySize, receive: Receive) -> list[Message]:
    """The messages of a body. Raises: BodyTooLargeError."""
    messages: list[Message] = []
    while not messages or messages[-1].get("more_body", False):
        messages.append(await receive())
        size.add(messages[-1].get("body", b""))
    return messages


def _path(scope: MutableMapping[str, Any]) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")).rstrip("/")


def _has_steering(body: bytes) -> bool:
    # A cheap look first; the key can also be written with escapes, or in UTF-16, which has zeros.
    if FIELD.encode() not in body and b"\\u" not in body and b"\0" not in body:
        return False
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and FIELD in document


def _refuse(path: str, param: str) -> ASGIApp:
    return error_response(
        RequestError(
            f"{path} does not support steering; it works on {', '.join(sorted(STEERED_PATHS))}.",
            param=param,
            code="steering_unsupported",
        )
    )
