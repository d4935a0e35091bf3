"""Streamed requests to a running server, each read to its end, and what may go wrong with one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

REFUSING_STATUSES = frozenset({400, 404, 409})

_SUBJECTS = (
    "religion in daily life",
    "obedience in children",
    "trust in strangers",
    "the role of the state",
    "care for old parents",
    "work and leisure",
    "protecting nature",
    "new technology",
)
_FORMS = ("Tell me what you think about {}.", "Write a short note to a friend about {}.")
PROMPTS = tuple(form.format(subject) for form in _FORMS for subject in _SUBJECTS)


def http_client(
    url: str, key: str, transport: httpx.AsyncBaseTransport | None, connections: int, read_seconds: float
) -> httpx.AsyncClient:
    """A client that keeps so many requests under way, and that gives up after so long a silence."""
    return httpx.AsyncClient(
        base_url=url.rstrip("/"),
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(read_seconds, connect=10.0),
        limits=httpx.Limits(max_connections=connections + 1, max_keepalive_connections=connections + 1),
        transport=transport,
    )


class StreamFailed(Exception):
    """A request got no whole answer. Caught by whoever asked."""

    def __init__(self, kind: str, detail: str, code: str = "") -> None:
        super().__init__(detail)
        self.kind = kind
        self.code = code or kind
        """The error's own, where the server said one."""


class Refused(Exception):
    """A clean 4xx before the first byte. Caught by whoever asked."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


async def read_stream(
    http: httpx.AsyncClient,
    body: dict[str, Any],
    on_first_byte: Callable[[], None] = lambda: None,
    on_token: Callable[[], None] = lambda: None,
    through: Callable[[AsyncIterator[str]], AsyncIterator[str]] = lambda lines: lines,
) -> tuple[tuple[str, ...], str]:
    """What was applied, and the text, of a stream that came to its end.

    Args:
        through: what its lines pass on their way.

    Raises: StreamFailed; Refused.
    """
    has_begun = False
    try:
        async with http.stream("POST", "/v1/chat/completions", json=body) as response:
            on_first_byte()
            if response.status_code != 200:
                raise _refusal(response.status_code, await response.aread())
            has_begun = True
            return await _read_events(through(response.aiter_lines()), on_token)
    except httpx.TimeoutException as error:
        raise StreamFailed("hang", f"nothing came any more: {error!r}") from error
    except httpx.HTTPError as error:
        raise StreamFailed("cut" if has_begun else "unusable", repr(error)) from error


async def _read_events(
    lines: AsyncIterator[str], on_token: Callable[[], None]
) -> tuple[tuple[str, ...], str]:
    pieces: list[str] = []
    applied: tuple[str, ...] | None = None
    is_done = False
    async for line in lines:
        if not line.startswith("data: "):
            continue
        if line == "data: [DONE]":
            is_done = True
            continue
        try:
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise StreamFailed("error_after_first_byte", json.dumps(event["error"])[:300])
            if "steering" in event:
                applied = tuple(one["adapter"] for one in event["steering"]["applied"])
            for choice in event["choices"]:
                if choice.get("finish_reason") not in (None, "stop", "length"):
                    raise StreamFailed("cut", f"finish_reason {choice['finish_reason']!r}")
                if content := choice["delta"].get("content"):
                    on_token()
                    pieces.append(content)
        except (ValueError, KeyError, TypeError) as error:
            raise StreamFailed("unusable", f"{error!r} in {line[:200]}") from error
    if not is_done:
        raise StreamFailed("cut", f"the stream ended after {len(pieces)} pieces without [DONE]")
    if applied is None:
        raise StreamFailed("unusable", "the stream does not say what was applied")
    return applied, "".join(pieces)


def _refusal(status: int, content: bytes) -> Exception:
    try:
        error = json.loads(content)["error"]
        code, message = str(error["code"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        return StreamFailed("server_error" if status >= 500 else "unusable", f"{status}: {content[:200]!r}")
    if status in REFUSING_STATUSES:
        return Refused(code, message)
    kind = "server_error" if status >= 500 else "unusable"
    return StreamFailed(kind, f"{status} {code}: {message[:300]}", code)
