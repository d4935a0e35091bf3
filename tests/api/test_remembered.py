import asyncio

import pytest

from steer_server.api import remembered
from steer_server.api.remembered import Remembered
from steer_server.errors import DatabaseError


class Source:
    """A database of one value, which can be away or slow."""

    def __init__(self) -> None:
        self.value: str | None = "first"
        self.num_asked = 0
        self.is_away = False
        self.gate: asyncio.Event | None = None

    async def __call__(self) -> str | None:
        self.num_asked += 1
        value = self.value
        if self.gate is not None:
            await self.gate.wait()
        if self.is_away:
            raise DatabaseError("away")
        return value


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def known(clock: Clock) -> Remembered[str | None]:
    return Remembered(clock)


async def test_an_answer_is_believed_for_a_while(
    known: Remembered[str | None], source: Source, clock: Clock
) -> None:
    assert await known.get("a", source) == "first"
    source.value = "second"
    assert await known.get("a", source) == "first"
    assert await known.get("b", source) == "second"
    clock.seconds += remembered.FRESH_SECONDS
    assert await known.get("a", source) == "second"


async def test_after_a_revision_everything_is_asked_anew(
    known: Remembered[str | None], source: Source
) -> None:
    await known.get("a", source)
    source.value = "second"
    known.expire()
    assert await known.get("a", source) == "second"


async def test_an_answer_that_was_read_before_a_revision_is_not_believed_after_it(
    known: Remembered[str | None], source: Source, clock: Clock
) -> None:
    source.gate = asyncio.Event()
    early = asyncio.create_task(known.get("a", source))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    source.value = "second"
    clock.seconds += 0.1
    known.expire()
    source.gate.set()
    assert await early == "first"
    clock.seconds += 0.1
    assert await known.get("a", source) == "second"


async def test_nothing_is_not_remembered(known: Remembered[str | None], source: Source) -> None:
    source.value = None
    assert await known.get("a", source) is None
    source.value = "made"
    assert await known.get("a", source) == "made"


async def test_what_is_gone_is_forgotten(known: Remembered[str | None], source: Source, clock: Clock) -> None:
    await known.get("a", source)
    source.value = None
    known.expire()
    assert await known.get("a", source) is None
    source.is_away = True
    with pytest.raises(DatabaseError):
        await known.get("a", source)


async def test_while_the_database_is_away_the_last_answer_holds(
    known: Remembered[str | None], source: Source, clock: Clock
) -> None:
    await known.get("a", source)
    source.is_away = True
    for _ in range(3):
        clock.seconds += 1000
        known.expire()
        clock.seconds += 1
        assert await known.get("a", source) == "first"
    asked = source.num_asked
    assert await known.get("a", source) == "first"
    assert source.num_asked == asked, "asked again at once"
    with pytest.raises(DatabaseError):
        await known.get("b", source)


async def test_requests_do_not_wait_for_a_database_that_hangs(
    known: Remembered[str | None], source: Source, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "PATIENCE_SECONDS", 0.05)
    await known.get("a", source)
    source.gate, source.value = asyncio.Event(), "second"
    clock.seconds += 1000
    async with asyncio.timeout(5):
        assert await asyncio.gather(*(known.get("a", source) for _ in range(20))) == ["first"] * 20
    assert source.num_asked == 2
    source.gate.set()
    await asyncio.sleep(0.01)
    assert await known.get("a", source) == "second"
    assert source.num_asked == 2


async def test_a_request_that_goes_away_takes_the_answer_from_nobody(
    known: Remembered[str | None], source: Source
) -> None:
    source.gate = asyncio.Event()
    first, second = (asyncio.create_task(known.get("a", source)) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.sleep(0.01)
    source.gate.set()
    assert await second == "first" and source.num_asked == 1


async def test_memory_is_bounded(
    known: Remembered[str | None], source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "MAX_ENTRIES", 10)
    for number in range(50):
        await known.get(str(number), source)
    asked = source.num_asked
    await known.get("49", source)
    assert source.num_asked == asked
    await known.get("0", source)
    assert source.num_asked == asked + 1
