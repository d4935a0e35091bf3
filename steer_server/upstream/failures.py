"""What went wrong with an upstream, as our errors: the only place that knows httpx's exceptions.

| what happened                          | error                           | again? | counts for the breaker |
|----------------------------------------|---------------------------------|--------|------------------------|
| no connection                          | 502 upstream_unreachable        | yes    | yes |
| no connection in time                  | 504 upstream_timeout            | yes    | yes |
| no first byte, or none after others    | 504 upstream_timeout            | no     | yes |
| the connection broke                   | 502 upstream_cut                | no     | yes |
| not what was asked for, a redirect     | 502 upstream_garbled            | no     | yes |
| 502                                    | 502 upstream_failed             | yes    | yes |
| 503                                    | 503 upstream_unavailable        | yes    | yes |
| 504                                    | 504 upstream_timeout            | yes    | yes |
| any other 5xx                          | 502 upstream_failed             | no     | yes |
| 401, 402, 403, 407                     | 502 upstream_key_refused        | no     | no  |
| 429                                    | 429, its own words              | yes    | no  |
| any other 4xx                          | the same status, its own words  | no     | no  |
| our own connections are all in use     | 503 upstream_unavailable        | no     | no  |

Messages name the upstream and never hold its URL, its key, or the text of an exception.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import httpx

from steer_server.errors import (
    SteerError,
    UpstreamError,
    UpstreamRefusal,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
)
from steer_server.upstream.cleaning import Cleaner
from steer_server.upstream.retries import parse_retry_after

OPERATORS_FAULT = (401, 402, 403, 407)
"""It is the operator's key and account that the upstream refuses, not the client's."""


@dataclass
class Failure(Exception):
    """One attempt that failed."""

    error: SteerError
    outcome: str
    """For metrics: a class of status, or the error's code."""
    can_retry: bool = False
    has_failed: bool = True
    """Whether the breaker counts it."""
    retry_after_seconds: float | None = None


def unusable(upstream: str, code: str, what: str) -> Failure:
    """An answer that broke off, or is not what was asked for."""
    return Failure(UpstreamError(f"The upstream {upstream!r} {what}.", code=code), code)


def garbled(upstream: str, what: str) -> Failure:
    return unusable(upstream, "upstream_garbled", what)


def cut(upstream: str) -> Failure:
    return unusable(upstream, "upstream_cut", "ended its answer before it was complete")


def too_slow(upstream: str, what: str, seconds: float) -> Failure:
    message = f"The upstream {upstream!r} {what} within {seconds:g} seconds."
    return Failure(UpstreamTimeoutError(message), UpstreamTimeoutError.code)


def of_exception(upstream: str, error: httpx.HTTPError) -> Failure:
    """Before the first byte of an answer, or in the middle of it."""
    if isinstance(error, httpx.PoolTimeout):
        message = f"All connections to the upstream {upstream!r} are in use."
        busy = UpstreamUnavailableError(message)
        return Failure(busy, busy.code, has_failed=False)
    if isinstance(error, httpx.ConnectTimeout):
        slow = UpstreamTimeoutError(f"The upstream {upstream!r} could not be reached in time.")
        return Failure(slow, slow.code, can_retry=True)
    if isinstance(error, httpx.TimeoutException):
        slow = UpstreamTimeoutError(f"The upstream {upstream!r} did not go on in time.")
        return Failure(slow, slow.code)
    if isinstance(error, httpx.ConnectError | httpx.ProxyError):
        failure = unusable(upstream, "upstream_unreachable", "cannot be reached")
        failure.can_retry = True
        return failure
    return cut(upstream)


def of_status(upstream: str, response: httpx.Response, text: str, cleaner: Cleaner) -> Failure:
    """A response other than 2xx.

    Args:
        text: the beginning of its body.
    """
    status = response.status_code
    outcome = f"{status // 100}xx"
    after = parse_retry_after(response.headers.get("retry-after"))
    if status in OPERATORS_FAULT:
        message = f"The upstream {upstream!r} refuses this server's key; the server's operator must mend it."
        return Failure(UpstreamError(message, code=UpstreamError.KEY_REFUSED), outcome, has_failed=False)
    if 400 <= status < 500:
        try:
            document = cleaner.document(text)
        except ValueError:
            document = {}
        detail = cleaner.error_detail(document, f"The upstream {upstream!r} answered {status}.")
        refusal = UpstreamRefusal({"error": detail}, status, retry_after_seconds=_whole(after))
        return Failure(refusal, outcome, status == 429, has_failed=False, retry_after_seconds=after)
    if status < 500:
        failure = garbled(upstream, f"answered {status}, which is no answer")
        failure.outcome = outcome
        return failure
    return Failure(_of_5xx(upstream, status, after), outcome, status in (502, 503, 504), True, after)


def _of_5xx(upstream: str, status: int, retry_after_seconds: float | None) -> SteerError:
    message = f"The upstream {upstream!r} answered {status}."
    if status == 503:
        return UpstreamUnavailableError(message, retry_after_seconds=_whole(retry_after_seconds))
    if status == 504:
        return UpstreamTimeoutError(message)
    return UpstreamError(message)


def _whole(seconds: float | None) -> int:
    return max(1, math.ceil(seconds or 0))
