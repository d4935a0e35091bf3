from __future__ import annotations

import asyncio

import pytest

from steer_server.frozen.rewrite_cache import SharedCache


class Maker:
    """Makes a value when it is told to."""

    def __init__(self, value: str = "value") -> None:
        self.value = value
        self.go_on = asyncio.Event()
        self.num_started = self.num_cancelled = 0
        self.error: Exception | None = None

    async def __call__(self) -> str:
        self.num_started += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return self.value

    async def has_started(self, times: int = 1) -> None:
        async with asyncio.timeout(5):
            while self.num_started < times:
                await asyncio.sleep(0)


def cache(max_characters: int = 100, max_entries: int = 100) -> SharedCache[str]:
    return SharedCache(max_characters, len, max_entries)


async def put(cached: SharedCache[str], key: str, value: str) -> None:
    async def make() -> str:
        return value

    await cached.get(key, make)


async def is_there(cached: SharedCache[str], key: str) -> bool:
    async def make() -> str:
        raise LookupError

    try:
        return (await cached.get(key, make))[1]
    except LookupError:
        return False


async def test_a_value_is_made_once_and_then_found() -> None:
    cached, maker = cache(), Maker()
    maker.go_on.set()
    assert await cached.get("a", maker) == ("value", False)
    assert await cached.get("a", maker) == ("value", True)
    assert maker.num_started == 1


async def test_requests_at_the_same_time_share_the_work() -> None:
    cached, maker = cache(), Maker()
    waiting = [asyncio.create_task(cached.get("a", maker)) for _ in range(20)]
    other = asyncio.create_task(cached.get("b", maker))
    await maker.has_started(2)
    maker.go_on.set()
    assert await asyncio.gather(*waiting) == [("value", False)] * 20
    await other
    assert maker.num_started == 2


async def test_a_request_that_leaves_takes_nothing_from_those_that_wait() -> None:
    cached, maker = cache(), Maker()
    first, second = (asyncio.create_task(cached.get("a", maker)) for _ in range(2))
    await maker.has_started()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    maker.go_on.set()
    assert await second == ("value", False) and maker.num_cancelled == 0


async def test_the_work_ends_with_the_last_that_waits_and_the_next_begins_anew() -> None:
    cached, maker = cache(), Maker()
    leaving = [asyncio.create_task(cached.get("a", maker)) for _ in range(2)]
    await maker.has_started()
    for task in leaving:
        task.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)
    assert maker.num_cancelled == 1
    maker.go_on.set()
    assert await cached.get("a", maker) == ("value", False) and maker.num_started == 2


async def test_a_failure_reaches_everybody_and_is_not_kept() -> None:
    cached, maker = cache(), Maker()
    maker.error = ValueError("no")
    maker.go_on.set()
    found = await asyncio.gather(*(cached.get("a", maker) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in found] == [ValueError] * 3 and maker.num_started == 1
    maker.error = None
    assert await cached.get("a", maker) == ("value", False)


async def test_the_least_recently_used_goes_first() -> None:
    cached = cache(max_entries=3)
    for key in "abc":
        await put(cached, key, key)
    assert await is_there(cached, "a")
    await put(cached, "d", "d")
    assert [await is_there(cached, key) for key in "acd"] == [True] * 3 and not await is_there(cached, "b")


async def test_characters_are_bounded() -> None:
    cached = cache(max_characters=10)
    for key in "abcdef":
        await put(cached, key, "xxxx")
    assert (len(cached), cached.num_characters) == (2, 8)
    await put(cached, "g", "x" * 11)
    assert (len(cached), cached.num_characters) == (0, 0)


async def test_without_room_nothing_is_kept_and_work_is_still_shared() -> None:
    cached, maker = cache(max_characters=0), Maker()
    waiting = [asyncio.create_task(cached.get("a", maker)) for _ in range(2)]
    await maker.has_started()
    maker.go_on.set()
    await asyncio.gather(*waiting)
    assert maker.num_started == 1 and len(cached) == 0
    assert await cached.get("a", maker) == ("value", False)
