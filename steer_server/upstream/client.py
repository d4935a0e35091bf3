"""One upstream: its connections, its key, its breaker and its budget of retries."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import SecretStr

from steer_server import __version__
from steer_server.metrics import Metrics
from steer_server.observing.spans import Kind, span, trace_headers
from steer_server.upstream.breaker import Breaker
from steer_server.upstream.cleaning import Cleaner
from steer_server.upstream.failures import Failure, of_exception, of_status, too_slow
from steer_server.upstream.retries import RetryBudget, wait_seconds

MAX_CONNECTIONS = 512
IDLE_CONNECTION_SECONDS = 4.0
"""Many servers close a connection that was idle for 5 s, and a request that is on its way then is lost."""
MAX_ERROR_BYTES = 64 * 2**10


@dataclass(frozen=True)
class Patience:
    """How long an upstream is waited for, in seconds."""

    connect: float
    first_byte: float
    """From the request's arrival to the first byte of an answer, retries included."""
    between_bytes: float


class Upstream:
    """Not shared between event loops. `close` gives its connections up."""

    def __init__(
        self,
        name: str,
        url: str,
        key: SecretStr | None,
        patience: Patience,
        metrics: Metrics,
        *,
        open_seconds: float,
        tls: ssl.SSLContext,
    ) -> None:
        """
        Args:
            url: such as `https://host/v1`, without credentials.
            open_seconds: how long it is left alone after it failed repeatedly.
        """
        self.name, self.patience, self.metrics = name, patience, metrics
        self.cleaner = Cleaner(key)
        self.breaker = Breaker(
            name, open_seconds=open_seconds, on_change=metrics.upstream_breaker_state.labels(name).set
        )
        metrics.upstream_breaker_state.labels(name).set(self.breaker.state)
        self._budget = RetryBudget()
        headers = {
            # A compressed stream would wait for its blocks to fill.
            "Accept-Encoding": "identity",
            "User-Agent": f"steer-server/{__version__}",
        }
        if key is not None:
            headers["Authorization"] = f"Bearer {key.get_secret_value()}"
        # A client for each upstream: a slow one must not use up the others' connections.
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            verify=tls,
            # Reading has deadlines of its own: the first byte may take longer than the next.
            timeout=httpx.Timeout(patience.connect, write=patience.between_bytes, read=None),
            limits=httpx.Limits(
                max_connections=MAX_CONNECTIONS,
                max_keepalive_connections=MAX_CONNECTIONS,
                keepalive_expiry=IDLE_CONNECTION_SECONDS,
            ),
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def post(self, path: str, body: dict[str, Any], deadline: float) -> httpx.Response:
        """A response of status 2xx, of which nothing has been read yet; whoever has it closes it.

        Tries again after what a retry may mend, as long as the budget lasts. Counts the attempts that it
        repeats; the last one ends with the reader.

        Args:
            deadline: no retry is begun after this time of the event loop.

        Raises: Failure.
        """
        self._budget.on_request()
        num_attempts = 0
        while True:
            num_attempts += 1
            try:
                return await self._open("POST", path, body, num_before=num_attempts - 1)
            except Failure as failure:
                wait = self._wait_before_retry(failure, num_attempts, deadline)
                if wait is None:
                    raise
                self.count(failure.outcome)
                self.metrics.upstream_retries_total.labels(self.name).inc()
            await asyncio.sleep(wait)

    def _wait_before_retry(self, failure: Failure, num_attempts: int, deadline: float) -> float | None:
        wait = wait_seconds(num_attempts, failure.retry_after_seconds) if failure.can_retry else None
        if wait is None or asyncio.get_running_loop().time() + wait >= deadline:
            return None
        return wait if self._budget.take() else None

    async def get(self, path: str, max_bytes: int) -> bytes:
        """The whole body of a response of status 2xx; tried once. Raises: Failure."""
        response = await self._open("GET", path)
        try:
            return await read_at_most(response, max_bytes)
        except httpx.HTTPError as error:
            raise of_exception(self.name, error) from error
        finally:
            await response.aclose()

    async def _open(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, num_before: int = 0
    ) -> httpx.Response:
        url = self._http.base_url
        attributes = {
            "http.request.method": method,
            "http.request.resend_count": num_before or None,
            "server.address": url.host,
            "server.port": url.port,
        }
        with span(method, attributes, Kind.CLIENT) as attempt:
            request = self._http.build_request(method, path, json=body, headers=trace_headers())
            try:
                response = await self._send(request)
            except Failure as failure:
                attempt.fail(failure.outcome)
                raise
            attempt.set({"http.response.status_code": response.status_code})
            return response

    async def _send(self, request: httpx.Request) -> httpx.Response:
        try:
            response = await self._http.send(request, stream=True)
            if response.is_success:
                return response
            try:
                text = await read_at_most(response, MAX_ERROR_BYTES)
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise of_exception(self.name, error) from error
        raise of_status(self.name, response, text.decode(errors="replace"), self.cleaner)

    async def pieces(self, response: httpx.Response) -> AsyncGenerator[bytes]:
        """The body as it comes in; whoever reads the first piece has a deadline for it.

        Raises: Failure when it breaks off, or goes silent after it began.
        """
        pieces = response.aiter_bytes()
        seconds = None
        while True:
            try:
                async with asyncio.timeout(seconds):
                    piece = await anext(pieces, None)
            except TimeoutError as error:
                assert seconds is not None
                raise too_slow(self.name, "sent nothing more", seconds) from error
            except httpx.HTTPError as error:
                raise of_exception(self.name, error) from error
            if piece is None:
                return
            seconds = self.patience.between_bytes
            yield piece

    def count(self, outcome: str) -> None:
        """One attempt has ended."""
        self.metrics.upstream_requests_total.labels(self.name, outcome).inc()


async def read_at_most(response: httpx.Response, max_bytes: int) -> bytes:
    """The beginning of a body."""
    parts: list[bytes] = []
    num_bytes = 0
    async for part in response.aiter_bytes():
        parts.append(part)
        num_bytes += len(part)
        if num_bytes >= max_bytes:
            break
    return b"".join(parts)[:max_bytes]
