import asyncio
import random

import pytest

from steer_server.catalogue.snapshot import LoadedAdapter
from steer_server.engine.leases import SlotLeases
from steer_server.errors import CapacityError, EngineError, RequestError
from tests.support.adapters import planned_catalogue

NAMES = ["a", "b", "c", "d", "e"]
ADAPTERS = {adapter.name: adapter for adapter in planned_catalogue(NAMES).adapters}


class Bank:
    """Records what is in each slot; `pause` holds loads back, `failing` makes them fail."""

    def __init__(self) -> None:
        self.slots: dict[int, str] = {}
        self.loads: list[str] = []
        self.pause: asyncio.Event | None = None
        self.failing: set[str] = set()

    async def load(self, slot: int, adapter: LoadedAdapter) -> None:
        self.loads.append(adapter.name)
        if self.pause is not None:
            await self.pause.wait()
        if adapter.name in self.failing:
            raise EngineError("no")
        self.slots[slot] = adapter.name

    async def clear(self, slot: int) -> None:
        if self.pause is not None:
            await self.pause.wait()
        self.slots.pop(slot, None)


def make(num_slots: int = 2, max_waiting: int = 8, max_wait_seconds: float = 60.0) -> tuple[Bank, SlotLeases]:
    bank = Bank()
    return bank, SlotLeases(
        num_slots, bank.load, bank.clear, max_waiting=max_waiting, max_wait_seconds=max_wait_seconds
    )


def adapters(names: str) -> list[LoadedAdapter]:
    return [ADAPTERS[name] for name in names]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_an_empty_slot_is_filled_from_the_banks_beginning() -> None:
    """Also one that was emptied last: a step costs as much as the last slot that it uses."""
    bank, leases = make(4)
    for name in "abc":
        (await leases.acquire(adapters(name))).release()
    for name in "ca":
        await leases.evict(ADAPTERS[name].digest)
    (await leases.acquire(adapters("de"))).release()
    assert bank.slots == {0: "d", 1: "b", 2: "e"}


async def test_a_resident_adapter_is_not_loaded_again() -> None:
    bank, leases = make()
    (await leases.acquire(adapters("a"))).release()
    (await leases.acquire(adapters("a"))).release()
    assert bank.loads == ["a"]


async def test_the_longest_unused_adapter_makes_room() -> None:
    bank, leases = make()
    for names in ("a", "b", "a", "c"):
        (await leases.acquire(adapters(names))).release()
    assert sorted(bank.slots.values()) == ["a", "c"]


async def test_evicting_a_held_adapter_waits() -> None:
    bank, leases = make()
    held = await leases.acquire(adapters("ab"))
    waiting = asyncio.create_task(leases.acquire(adapters("c")))
    await settle()
    assert not waiting.done() and sorted(bank.slots.values()) == ["a", "b"]
    held.release()
    (await waiting).release()
    assert "c" in bank.slots.values()


async def test_a_blend_gets_all_its_slots_or_none() -> None:
    _, leases = make(num_slots=3)
    held = await leases.acquire(adapters("ab"))
    waiting = asyncio.create_task(leases.acquire(adapters("cd")))
    await settle()
    assert not waiting.done() and leases.num_leases == 2
    held.release()
    (await waiting).release()


async def test_requests_for_resident_adapters_pass_one_that_waits() -> None:
    _, leases = make(num_slots=2)
    held_a, held_b = await leases.acquire(adapters("a")), await leases.acquire(adapters("b"))
    held_b2 = await leases.acquire(adapters("b"))
    waiting = asyncio.create_task(leases.acquire(adapters("c")))
    await settle()
    passing = await asyncio.wait_for(leases.acquire(adapters("b")), 60)
    for lease in (held_a, held_b, held_b2, passing):
        lease.release()
    (await waiting).release()


async def test_popular_adapters_cannot_starve_one_that_waits() -> None:
    """The slot that the head of the line waits for takes no new leases."""
    _, leases = make(num_slots=1)
    held = await leases.acquire(adapters("a"))
    rare = asyncio.create_task(leases.acquire(adapters("b")))
    await settle()
    popular = asyncio.create_task(leases.acquire(adapters("a")))
    await settle()
    assert not popular.done()
    held.release()
    lease = await asyncio.wait_for(rare, 60)
    assert not popular.done()
    lease.release()
    (await popular).release()


async def test_the_line_is_first_come_first_served() -> None:
    bank, leases = make(num_slots=1)
    held = await leases.acquire(adapters("a"))
    order: list[str] = []

    async def use(name: str) -> None:
        lease = await leases.acquire(adapters(name))
        order.append(name)
        lease.release()

    users = []
    for name in "bcd":
        users.append(asyncio.create_task(use(name)))
        await settle()
    held.release()
    await asyncio.gather(*users)
    assert order == ["b", "c", "d"] and bank.loads == ["a", "b", "c", "d"]


async def test_a_full_line_is_refused_with_retry_after() -> None:
    _, leases = make(num_slots=1, max_waiting=1)
    held = await leases.acquire(adapters("a"))
    waiting = asyncio.create_task(leases.acquire(adapters("b")))
    await settle()
    with pytest.raises(CapacityError) as caught:
        await leases.acquire(adapters("c"))
    assert caught.value.http_status == 503 and "Retry-After" in caught.value.headers
    held.release()
    (await waiting).release()


async def test_a_line_of_length_zero_still_serves_free_slots() -> None:
    _, leases = make(num_slots=1, max_waiting=0)
    lease = await leases.acquire(adapters("a"))
    with pytest.raises(CapacityError):
        await leases.acquire(adapters("b"))
    (await leases.acquire(adapters("a"))).release()
    lease.release()
    (await leases.acquire(adapters("b"))).release()


async def test_a_wait_that_is_too_long_is_refused_and_frees_the_line() -> None:
    _, leases = make(num_slots=1, max_wait_seconds=0.05)
    held = await leases.acquire(adapters("a"))
    with pytest.raises(CapacityError, match="No bank slot came free"):
        await leases.acquire(adapters("b"))
    assert leases.num_waiting == 0
    (await leases.acquire(adapters("a"))).release()
    held.release()
    assert leases.num_leases == 0


async def test_a_waiting_request_that_is_cancelled_leaves_nothing_behind() -> None:
    bank, leases = make(num_slots=1)
    held = await leases.acquire(adapters("a"))
    waiting = asyncio.create_task(leases.acquire(adapters("b")))
    await settle()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    (await leases.acquire(adapters("a"))).release()
    held.release()
    assert leases.num_waiting == leases.num_leases == 0 and bank.loads == ["a"]


async def test_a_request_cancelled_in_the_moment_it_is_granted_gives_back() -> None:
    _, leases = make(num_slots=1)
    held = await leases.acquire(adapters("a"))
    waiting = asyncio.create_task(leases.acquire(adapters("b")))
    await settle()
    held.release()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await settle()
    assert leases.num_leases == 0
    (await leases.acquire(adapters("c"))).release()


async def test_a_lease_is_given_back_once_however_often_it_is_released() -> None:
    _, leases = make()
    lease, other = await leases.acquire(adapters("a")), await leases.acquire(adapters("a"))
    lease.release()
    lease.release()
    assert leases.num_leases == 1
    other.release()


async def test_a_dropped_lease_is_given_back() -> None:
    _, leases = make()
    lease = await leases.acquire(adapters("a"))
    del lease
    await settle()
    assert leases.num_leases == 0


async def test_requests_for_one_adapter_share_its_load() -> None:
    bank, leases = make()
    bank.pause = asyncio.Event()
    users = [asyncio.create_task(leases.acquire(adapters("a"))) for _ in range(3)]
    await settle()
    assert bank.loads == ["a"] and not any(user.done() for user in users)
    bank.pause.set()
    for lease in await asyncio.gather(*users):
        lease.release()


async def test_a_load_that_fails_fails_its_requests_and_frees_the_slot() -> None:
    bank, leases = make(num_slots=1)
    bank.failing = {"a"}
    results = await asyncio.gather(*(leases.acquire(adapters("a")) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(result, EngineError) for result in results)
    bank.failing = set()
    (await leases.acquire(adapters("b"))).release()
    (await leases.acquire(adapters("a"))).release()
    assert leases.num_leases == 0


async def test_a_slot_that_is_still_loading_for_nobody_is_not_given_away() -> None:
    bank, leases = make(num_slots=1)
    bank.pause = asyncio.Event()
    abandoned = asyncio.create_task(leases.acquire(adapters("a")))
    await settle()
    abandoned.cancel()
    await asyncio.gather(abandoned, return_exceptions=True)
    after = asyncio.create_task(leases.acquire(adapters("b")))
    await settle()
    assert bank.loads == ["a"]
    bank.pause.set()
    (await after).release()
    assert bank.slots == {0: "b"} and leases.num_leases == 0


async def test_a_blend_larger_than_the_bank_is_the_clients_fault() -> None:
    _, leases = make(num_slots=2)
    with pytest.raises(RequestError, match="holds 2 at once"):
        await leases.acquire(adapters("abc"))


async def test_an_evicted_adapter_leaves_its_slot_when_its_last_request_has_ended() -> None:
    bank, leases = make()
    lease = await leases.acquire(adapters("a"))
    eviction = asyncio.create_task(leases.evict(ADAPTERS["a"].digest))
    await settle()
    assert not eviction.done() and "a" in bank.slots.values()
    lease.release()
    await eviction
    assert not bank.slots and not leases.resident


async def test_an_eviction_waits_for_requests_that_still_stand_in_line() -> None:
    bank, leases = make(num_slots=1)
    first = await leases.acquire(adapters("b"))
    waiting = asyncio.create_task(leases.acquire(adapters("a")))
    await settle()
    eviction = asyncio.create_task(leases.evict(ADAPTERS["a"].digest))
    await settle()
    assert not eviction.done()
    first.release()
    (await waiting).release()
    await eviction
    assert bank.loads == ["b", "a"] and not bank.slots


async def test_an_adapter_is_not_evicted_while_a_request_that_is_planned_with_it_has_yet_to_lease() -> None:
    bank, leases = make()
    with leases.expecting(adapter.digest for adapter in adapters("ab")):
        eviction = asyncio.create_task(leases.evict(ADAPTERS["a"].digest))
        await settle()
        assert not eviction.done()
        lease = await leases.acquire(adapters("ab"))
    await settle()
    assert not eviction.done()
    lease.release()
    await eviction
    assert list(bank.slots.values()) == ["b"]


async def test_a_slot_that_is_being_emptied_is_given_to_nobody() -> None:
    bank, leases = make(num_slots=1)
    (await leases.acquire(adapters("a"))).release()
    bank.pause = asyncio.Event()
    eviction = asyncio.create_task(leases.evict(ADAPTERS["a"].digest))
    await settle()
    waiting = asyncio.create_task(leases.acquire(adapters("b")))
    await settle()
    assert not waiting.done() and bank.loads == ["a"]
    bank.pause.set()
    await eviction
    (await waiting).release()
    assert list(bank.slots.values()) == ["b"]


async def test_many_random_requests_leave_no_lease_and_never_mix_slots() -> None:
    rng = random.Random(7)
    bank, leases = make(num_slots=3, max_waiting=1000)

    async def use(names: list[str]) -> None:
        await asyncio.sleep(rng.random() / 100)
        lease = await leases.acquire([ADAPTERS[name] for name in names])
        try:
            for _ in range(3):
                assert set(names) <= set(bank.slots.values())
                await asyncio.sleep(rng.random() / 200)
        finally:
            lease.release()

    tasks = [asyncio.create_task(use(rng.sample(NAMES, rng.randint(1, 3)))) for _ in range(200)]
    for task in rng.sample(tasks, 40):
        asyncio.get_running_loop().call_later(rng.random() / 20, task.cancel)
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
    assert not [r for r in results if isinstance(r, Exception)]
    await asyncio.sleep(0.05)
    assert leases.num_leases == leases.num_waiting == 0
