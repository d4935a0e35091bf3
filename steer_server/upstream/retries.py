"""When a request is sent again: how often, how soon, and how many in all.

A retry helps against one bad moment. To an upstream that is overloaded it is more of what it cannot take, so
retries are paid from a budget that requests fill: after a burst, one retry for every five requests.
"""

from __future__ import annotations

import email.utils
import random
import time

MAX_ATTEMPTS = 3
BURST_RETRIES = 10.0
RETRIES_PER_REQUEST = 0.2

FIRST_WAIT_SECONDS = 0.2
MAX_WAIT_SECONDS = 10.0
"""An upstream that says to come back later than this is not waited for: its answer goes to the client."""


class RetryBudget:
    """A token bucket, of one upstream."""

    def __init__(self) -> None:
        self._tokens = BURST_RETRIES

    def on_request(self) -> None:
        self._tokens = min(BURST_RETRIES, self._tokens + RETRIES_PER_REQUEST)

    def take(self) -> bool:
        """Whether there is a retry left; it is then used."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def wait_seconds(num_attempts: int, retry_after_seconds: float | None) -> float | None:
    """How long to wait after `num_attempts` failed; None: do not try again.

    Semantics: what the upstream says, else uniform in FIRST_WAIT_SECONDS * 2^(num_attempts - 1) * [0.5, 1.5].
    """
    if num_attempts >= MAX_ATTEMPTS:
        return None
    if retry_after_seconds is None:
        return FIRST_WAIT_SECONDS * 2.0 ** (num_attempts - 1) * random.uniform(0.5, 1.5)
    return retry_after_seconds if retry_after_seconds <= MAX_WAIT_SECONDS else None


def parse_retry_after(header: str | None) -> float | None:
    """Seconds from now, of a number or an HTTP date; None without one or for nonsense."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
