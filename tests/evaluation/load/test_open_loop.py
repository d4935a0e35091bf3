"""Requests leave when they are due, and what a rate that is sustained means."""

from __future__ import annotations

import asyncio
import itertools
import random
import time

import pytest

from steer_server.evaluation.load.open_loop import (
    Arrivals,
    Sent,
    Window,
    arrival_seconds,
    find_sustained_rate,
    run_window,
)


def test_poisson_arrivals_have_the_rate_and_the_spread_of_a_poisson_process_and_even_ones_have_none() -> None:
    poisson = arrival_seconds(50.0, 100.0, Arrivals.POISSON, random.Random(1))
    gaps = [b - a for a, b in itertools.pairwise(poisson)]
    mean = sum(gaps) / len(gaps)
    assert len(poisson) == pytest.approx(5000, rel=0.05) and poisson[0] > 0 and poisson[-1] < 100
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(mean, rel=0.1)  # of an exponential distribution they are equal
    assert poisson == arrival_seconds(50.0, 100.0, Arrivals.POISSON, random.Random(1))
    assert arrival_seconds(4.0, 1.0, Arrivals.EVEN, random.Random(1)) == [0.0, 0.25, 0.5, 0.75]


async def test_a_stalling_server_is_asked_on_and_the_wait_counts_from_when_a_request_was_due() -> None:
    num_under_way = most_under_way = 0
    free_at = 0.0
    is_full = asyncio.Event()

    async def send(due: float) -> Sent:
        nonlocal num_under_way, most_under_way, free_at
        num_under_way += 1
        most_under_way = max(most_under_way, num_under_way)
        began = time.perf_counter()
        free_at = free_at or due + 0.3
        if num_under_way == 20:
            is_full.set()
        async with asyncio.timeout(60):
            await is_full.wait()
        await asyncio.sleep(max(0.0, free_at - time.perf_counter()))
        num_under_way -= 1
        return Sent(due, began, time.perf_counter(), "")

    window = await run_window("test", 100.0, 0.2, Arrivals.EVEN, random.Random(1), send, 0.0)
    assert len(window.measured) == most_under_way == 20
    assert window.measured[0].ended - window.measured[0].due >= 0.29
    assert window.num_finished == 0 and not window.is_sustained


async def test_a_sender_that_is_late_is_late_in_the_times() -> None:
    async def send(due: float) -> Sent:
        began = time.perf_counter()
        time.sleep(0.02)  # keeps the loop from sending the next
        return Sent(due, began, time.perf_counter(), "")

    window = await run_window("test", 200.0, 0.05, Arrivals.EVEN, random.Random(1), send, 0.0)
    assert window.measured[-1].began - window.measured[-1].due > 0.05


def window(rate: float, ends: list[tuple[float, float, str]]) -> Window[Sent]:
    """Of ten seconds from 100 on. Args: ends: when each was due, when it ended, and its problem."""
    return Window(rate, 100.0, 10.0, [Sent(due, due, ended, problem) for due, ended, problem in ends])


STEADY = [(90.0 + i / 10, 92.0 + i / 10, "") for i in range(200)]
"""Ten per second of two seconds each, from ten seconds before the window on."""


def test_a_rate_is_sustained_when_as_many_end_as_are_due_and_nearly_none_fails() -> None:
    assert window(10, STEADY).is_sustained
    assert window(10, STEADY).num_finished == len(window(10, STEADY).measured) == 100
    two_fail = [(due, end, "timeout" if 104 < due < 104.2 else "") for due, end, _ in STEADY]
    assert window(10, two_fail).answered_share == pytest.approx(0.99) and window(10, two_fail).is_sustained
    four_fail = [(due, end, "timeout" if 104 < due < 104.4 else "") for due, end, _ in STEADY]
    assert not window(10, four_fail).is_sustained
    growing_line = [(due, due + 2 + (due - 90) * 0.3, "") for due, _, _ in STEADY]
    assert window(10, growing_line).answered_share == 1.0 and not window(10, growing_line).is_sustained
    assert not window(10, []).is_sustained


@pytest.mark.parametrize(("capacity", "first"), [(5.0, 1.0), (0.3, 1.0), (1.0, 1.0), (37.0, 2.0)])
async def test_the_search_finds_the_capacity_within_a_fifth(capacity: float, first: float) -> None:
    async def measure(rate: float) -> Window[Sent]:
        return window(rate, STEADY if rate <= capacity else [])

    rate, tried = await find_sustained_rate(measure, first)
    assert rate <= capacity <= rate * 1.2
    assert max(one.rate for one in tried if one.is_sustained) == rate


async def test_a_server_that_keeps_up_with_nothing_has_no_sustained_rate() -> None:
    async def measure(rate: float) -> Window[Sent]:
        return window(rate, [])

    rate, tried = await find_sustained_rate(measure, 1.0)
    assert rate == 0.0 and len(tried) == 12
