"""`steer_server.together`: works at once, of which none outlives the others."""

from __future__ import annotations

import asyncio

import pytest

from steer_server.together import together


async def test_results_come_in_the_order_of_the_works() -> None:
    async def work(number: int) -> int:
        await asyncio.sleep(0.002 * (3 - number))
        return number

    assert await together(work(number) for number in range(3)) == [0, 1, 2]


@pytest.mark.parametrize("is_left", [False, True], ids=["one fails", "the caller leaves"])
async def test_nothing_goes_on_after_one_fails_or_the_caller_leaves(is_left: bool) -> None:
    ended: list[int] = []

    async def go_on(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(number)

    async def fail() -> None:
        await asyncio.sleep(0)
        if not is_left:
            raise ValueError("one")

    running = asyncio.create_task(together([go_on(0), fail(), go_on(1)]))
    if is_left:
        await asyncio.sleep(0.01)
        running.cancel()
    with pytest.raises(asyncio.CancelledError if is_left else ValueError):
        await running
    assert ended == [0, 1]
