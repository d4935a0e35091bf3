import email.utils
import time

import pytest

from steer_server.upstream.retries import (
    BURST_RETRIES,
    FIRST_WAIT_SECONDS,
    MAX_ATTEMPTS,
    MAX_WAIT_SECONDS,
    RETRIES_PER_REQUEST,
    RetryBudget,
    parse_retry_after,
    wait_seconds,
)


def test_a_budget_allows_a_burst_and_then_a_share_of_the_requests() -> None:
    budget = RetryBudget()
    assert sum(budget.take() for _ in range(100)) == BURST_RETRIES
    num_retries = 0
    for _ in range(100):
        budget.on_request()
        num_retries += budget.take()
    assert num_retries == pytest.approx(100 * RETRIES_PER_REQUEST, abs=1)


def test_requests_that_need_no_retry_do_not_save_up_more_than_the_burst() -> None:
    budget = RetryBudget()
    for _ in range(1000):
        budget.on_request()
    assert sum(budget.take() for _ in range(100)) == BURST_RETRIES


def test_waits_double_with_jitter_and_end_with_the_attempts() -> None:
    for num_attempts in range(1, MAX_ATTEMPTS):
        middle = FIRST_WAIT_SECONDS * 2 ** (num_attempts - 1)
        for _ in range(20):
            wait = wait_seconds(num_attempts, None)
            assert wait is not None and 0.5 * middle <= wait <= 1.5 * middle
    assert wait_seconds(MAX_ATTEMPTS, None) is None


def test_what_the_upstream_says_is_obeyed_or_left_to_the_client() -> None:
    assert wait_seconds(1, 2.5) == 2.5
    assert wait_seconds(1, MAX_WAIT_SECONDS + 1) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        (" 12 ", 12.0),
        ("soon", None),
        ("-1", None),
        ("", None),
        ("9" * 400, 999999999.0),
    ],
)
def test_retry_after_as_a_number(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header) == seconds


def test_retry_after_as_a_date() -> None:
    soon = parse_retry_after(email.utils.formatdate(time.time() + 30, usegmt=True))
    assert soon is not None and 28 <= soon <= 31
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
