"""The JSON body of a request, read up to a limit."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request

from steer_server.errors import BodyTooLargeError, RequestError
from steer_server.strict_json import JsonError, read_json


async def read_json_object(request: Request) -> dict[str, Any]:
    """The request's body. Raises: as `read_json_text`; RequestError when it is not a JSON object."""
    return json_object(await read_json_text(request))


async def read_json_text(request: Request) -> bytes:
    """The request's body as it is. Can be called once.

    Raises: RequestError `invalid_body` for another content type; BodyTooLargeError as soon as more has come,
    or is announced, than the server takes; starlette's ClientDisconnect when the client leaves meanwhile.
    """
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type != "application/json":
        raise RequestError("Content-Type must be application/json.", code="invalid_body")
    size = BodySize(request.headers, request.app.state.steer.max_body_bytes)
    parts = []
    async for part in request.stream():
        size.add(part)
        parts.append(part)
    return b"".join(parts)


class BodySize:
    """Counts a body as it comes. Raises: BodyTooLargeError as soon as more than `limit` bytes are announced,
    or have come."""

    def __init__(self, headers: Headers, limit: int) -> None:
        self._limit, self._num_bytes = limit, 0
        announced = headers.get("content-length", "")
        self._check(int(announced) if announced.isdigit() else 0)

    def add(self, part: bytes) -> None:
        self._num_bytes += len(part)
        self._check(self._num_bytes)

    def _check(self, num_bytes: int) -> None:
        if num_bytes > self._limit:
            raise BodyTooLargeError(self._limit)


def json_object(text: bytes) -> dict[str, Any]:
    """Raises: RequestError `invalid_body` when `text` is not a JSON object, or has what cannot be sent on."""
    try:
        body = read_json(text)
    except JsonError as error:
        told = f"The body is not valid JSON: {error}"
        raise RequestError(told, param=error.place, code="invalid_body") from error
    if not isinstance(body, dict):
        raise RequestError("The body must be a JSON object.", code="invalid_body")
    return body
