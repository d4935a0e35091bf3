"""AdminClient: a running server's administration over HTTP, for commands. Every failure is one message."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import IO, Any
from urllib.parse import quote

import httpx

from steer_server.progress import Progress

TIMEOUT = httpx.Timeout(600.0, connect=10.0)
"""Removing waits for running requests; activating for a probe and for a free slot."""
CHUNK_BYTES = 256 * 1024
MEBIBYTE = 2**20
SHOWN_FROM_BYTES = 8 * MEBIBYTE
"""A smaller package is sent before a bar could be read."""


class AdminFailed(Exception):
    """The server refused, or was not reached; `str` says why. Caught by the commands."""


class AdminClient:
    """Use as a context manager.

    Args:
        key: an operator key; empty where the server asks for none.
        transport: for tests.
    """

    def __init__(self, url: str, key: str = "", transport: httpx.BaseTransport | None = None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.url = url
        try:
            self._http = httpx.Client(
                base_url=url.rstrip("/"), headers=headers, timeout=TIMEOUT, transport=transport
            )
        except httpx.InvalidURL as error:
            raise AdminFailed(f"{url} is no URL: {error}") from error
        except UnicodeEncodeError as error:
            raise AdminFailed("the key has characters that no key has") from error

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, *parts: str, **query: Any) -> dict[str, Any]:
        """The answer's JSON. `parts` are those of the path behind `/v1`. Raises: AdminFailed."""
        return self._ask("GET", parts, params=_given(query))

    def post(self, *parts: str, body: Any = None, **query: Any) -> dict[str, Any]:
        """The answer's JSON. Raises: AdminFailed."""
        return self._ask("POST", parts, params=_given(query), json=body)

    def delete(self, *parts: str, **query: Any) -> dict[str, Any]:
        """The answer's JSON. Raises: AdminFailed."""
        return self._ask("DELETE", parts, params=_given(query))

    def push(self, archive: IO[bytes], size_bytes: int, what: str, *, activate: bool) -> dict[str, Any]:
        """The version that the server made of an archive.

        Args:
            what: the package's name, for the bar that a large one gets.

        Raises: AdminFailed.
        """
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size_bytes)}
        pieces = iter(lambda: archive.read(CHUNK_BYTES), b"")
        if size_bytes >= SHOWN_FROM_BYTES:
            pieces = _with_progress(pieces, size_bytes, what)
        query = {"activate": "true"} if activate else {}
        return self._ask("POST", ("adapters",), params=query, content=pieces, headers=headers)

    def _ask(self, method: str, parts: tuple[str, ...], **options: Any) -> dict[str, Any]:
        path = "/v1/" + "/".join(quote(part, safe="") for part in parts)
        try:
            response = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise AdminFailed(f"{self.url} does not answer: {error or type(error).__name__}") from error
        if response.is_error:
            raise AdminFailed(_refusal(response))
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise AdminFailed(f"{self.url}{path} does not answer as a steer-server")
        return body


def _given(query: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in query.items() if value is not None}


def _refusal(response: httpx.Response) -> str:
    try:
        error = response.json()["error"]
        told = f"{error['message']} ({error['code']})"
    except (ValueError, KeyError, TypeError):
        return f"{response.request.url} answers {response.status_code}: {response.text[:300]}"
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return f"{told}\nGive the key with STEER_ADMIN_KEY or --key."
    return told


def _with_progress(pieces: Iterator[bytes], size_bytes: int, what: str) -> Iterator[bytes]:
    sent_bytes = 0
    with Progress(what, -(-size_bytes // MEBIBYTE), "MiB") as progress:
        for piece in pieces:
            yield piece
            sent_bytes += len(piece)
            done = -(-sent_bytes // MEBIBYTE) if sent_bytes >= size_bytes else sent_bytes // MEBIBYTE
            progress.advance(done - progress.done)
