"""Slot leases: an adapter stays in its slot as long as any request uses it, and waiting for a slot is fair.

A request leases the slots of all its adapters, or none. If they are all resident it goes at once. Otherwise
it waits in one line, first come first served. The head of the line reserves the slots it needs: they take no
new leases and fall to it as soon as their present ones end, so popular adapters cannot starve a rare one.
The line is bounded in length and in time; beyond that the request is refused with Retry-After.

An adapter that is no longer served is evicted: when nothing holds it, waits for it or is planned with it, its
slot is emptied.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from steer_server.catalogue.snapshot import LoadedAdapter
from steer_server.errors import CapacityError, RequestError

LoadSlot = Callable[[int, LoadedAdapter], Awaitable[None]]
ClearSlot = Callable[[int], Awaitable[None]]


@dataclass
class _Slot:
    index: int
    digest: str | None = None
    num_leases: int = 0
    is_reserved: bool = False
    """For the head of the line: takes no new leases."""
    last_used: int = 0
    loading: asyncio.Task[None] | None = None


def _how_much_it_is_used(slot: _Slot) -> tuple[int, bool, int]:
    """The freest first: least is waited for. Then empty ones, of these the bank's first: a step multiplies
    the bank up to the last slot that it uses. Then the longest unused: least is loaded again."""
    is_full = slot.digest is not None
    return slot.num_leases, is_full, slot.last_used if is_full else slot.index


@dataclass(eq=False)
class _Waiter:
    adapters: tuple[LoadedAdapter, ...]
    granted: asyncio.Future[list[_Slot]]


@dataclass(eq=False)
class Lease:
    """Slots held for one request. `release` may be called more than once; it acts once."""

    _owner: SlotLeases
    _slots: list[_Slot] = field(default_factory=list)
    waited_seconds: float = 0.0
    _is_released: bool = False

    def release(self) -> None:
        if not self._is_released:
            self._is_released = True
            self._owner._give_back(self._slots)

    def __del__(self) -> None:
        # The last net under a response that the web framework dropped before it began.
        if not self._is_released and not self._owner.loop.is_closed():
            self._owner.loop.call_soon_threadsafe(self.release)


class SlotLeases:
    """The slot table of one engine. All calls come from one event loop."""

    def __init__(
        self,
        num_slots: int,
        load_slot: LoadSlot,
        clear_slot: ClearSlot,
        *,
        max_waiting: int,
        max_wait_seconds: float,
    ) -> None:
        self.num_slots = num_slots
        self.max_waiting = max_waiting
        self._slots = [_Slot(index) for index in range(num_slots)]
        self._by_digest: dict[str, _Slot] = {}
        self._line: deque[_Waiter] = deque()
        self._load_slot = load_slot
        self._clear_slot = clear_slot
        self._evictions: set[asyncio.Event] = set()
        self._expected: Counter[str] = Counter()
        self._max_wait_seconds = max_wait_seconds
        self._clock = itertools.count(1)
        self.loop = asyncio.get_running_loop()

    @property
    def num_waiting(self) -> int:
        return len(self._line)

    @property
    def num_leases(self) -> int:
        return sum(slot.num_leases for slot in self._slots)

    @property
    def num_leased_slots(self) -> int:
        return sum(slot.num_leases > 0 for slot in self._slots)

    @property
    def resident(self) -> dict[str, int]:
        """Slot index by content digest. Safe from other threads, where metrics are read."""
        return {digest: slot.index for digest, slot in list(self._by_digest.items())}

    @contextmanager
    def expecting(self, digests: Iterable[str]) -> Iterator[None]:
        """Counts a planned request among the adapters' users until the block ends: it may wait for a draft or
        a rewrite before it leases, and an adapter that is evicted meanwhile could not be loaded again."""
        expected = list(digests)
        self._expected.update(expected)
        try:
            yield
        finally:
            self._expected.subtract(expected)
            self._expected += Counter()  # forgets those that nobody expects
            self._serve_line()

    def num_users(self, digest: str) -> int:
        """Requests that hold an adapter, wait for it, or are planned with it."""
        slot = self._by_digest.get(digest)
        waiting = sum(any(a.digest == digest for a in waiter.adapters) for waiter in self._line)
        return waiting + (slot.num_leases if slot else 0) + self._expected[digest]

    async def evict(self, digest: str) -> None:
        """Waits until no request uses the adapter, and empties its slot. Nothing must plan with
        the adapter any more. Cancelled, it leaves the slot as it is.

        Raises: EngineError when the slot could not be emptied; it is then reused for another adapter as is.
        """
        turn = asyncio.Event()
        self._evictions.add(turn)
        try:
            while self.num_users(digest):
                turn.clear()
                await turn.wait()
        finally:
            self._evictions.discard(turn)
        slot = self._by_digest.pop(digest, None)
        if slot is None:
            return
        slot.digest = None
        self._hold([slot])
        clearing = self.loop.create_task(self._clear(slot))
        await asyncio.shield(clearing)

    async def _clear(self, slot: _Slot) -> None:
        try:
            await self._clear_slot(slot.index)
        finally:
            self._give_back([slot])

    async def acquire(self, adapters: Sequence[LoadedAdapter]) -> Lease:
        """Leases a slot for each adapter, loading those that are not resident.

        Raises:
            RequestError: the blend has more adapters than the engine has slots.
            CapacityError: the line is full, or the wait was too long.
            EngineError: an adapter could not be loaded.
        """
        if len(adapters) > len(self._slots):
            raise RequestError(
                f"The blend has {len(adapters)} adapters; the engine holds {len(self._slots)} at once.",
                param="steering.cultures",
            )
        started = time.monotonic()
        lease = Lease(self, await self._slots_for(tuple(adapters)))
        lease.waited_seconds = time.monotonic() - started
        try:
            for slot in lease._slots:
                if slot.loading is not None:
                    await asyncio.shield(slot.loading)
        except BaseException:
            lease.release()
            raise
        return lease

    async def _slots_for(self, adapters: tuple[LoadedAdapter, ...]) -> list[_Slot]:
        if (slots := self._resident_slots(adapters)) is not None:
            return self._hold(slots)
        if not self._line and (slots := self._grant(adapters)) is not None:
            return slots
        if len(self._line) >= self.max_waiting:
            if not self._line:
                self._reserve([])
            raise CapacityError(f"{len(self._line)} requests already wait for bank slots.")
        waiter = _Waiter(adapters, self.loop.create_future())
        self._line.append(waiter)
        try:
            async with asyncio.timeout(self._max_wait_seconds):
                return await waiter.granted
        except BaseException as error:
            if waiter in self._line:
                self._leave_line(waiter)
            elif waiter.granted.done() and not waiter.granted.cancelled():
                self._give_back(waiter.granted.result())
            if isinstance(error, TimeoutError):
                raise CapacityError(f"No bank slot came free in {self._max_wait_seconds:g} s.") from error
            raise

    def _resident_slots(self, adapters: tuple[LoadedAdapter, ...]) -> list[_Slot] | None:
        slots = [self._by_digest.get(adapter.digest) for adapter in adapters]
        ready = [slot for slot in slots if slot is not None and not slot.is_reserved]
        return ready if len(ready) == len(adapters) else None

    def _hold(self, slots: list[_Slot]) -> list[_Slot]:
        for slot in slots:
            slot.num_leases += 1
            slot.last_used = next(self._clock)
        return slots

    def _grant(self, adapters: tuple[LoadedAdapter, ...]) -> list[_Slot] | None:
        """All slots for the head of the line, or None after reserving those it must still wait for."""
        wanted = {adapter.digest for adapter in adapters}
        num_missing = sum(adapter.digest not in self._by_digest for adapter in adapters)
        others = [slot for slot in self._slots if slot.digest not in wanted or slot.digest is None]
        others.sort(key=_how_much_it_is_used)
        victims = others[:num_missing]
        if any(slot.num_leases for slot in victims):
            self._reserve(victims)
            return None
        self._reserve([])
        granted = []
        for adapter in adapters:
            slot = self._by_digest.get(adapter.digest)
            granted.append(slot if slot is not None else self._start_loading(victims.pop(0), adapter))
        return self._hold(granted)

    def _reserve(self, slots: Sequence[_Slot]) -> None:
        for slot in self._slots:
            slot.is_reserved = slot in slots

    def _start_loading(self, slot: _Slot, adapter: LoadedAdapter) -> _Slot:
        if slot.digest is not None:
            del self._by_digest[slot.digest]
        slot.digest = adapter.digest
        self._by_digest[adapter.digest] = slot
        # The load holds the slot itself, so that it is no victim when its requests go away meanwhile.
        self._hold([slot])
        slot.loading = self.loop.create_task(self._load(slot, adapter))
        # Whoever waits for it sees the error; when nobody does any more, it is not worth a warning.
        slot.loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        return slot

    async def _load(self, slot: _Slot, adapter: LoadedAdapter) -> None:
        try:
            await self._load_slot(slot.index, adapter)
            slot.loading = None
        except BaseException:
            # Its present holders fail with this error; the next request tries again.
            del self._by_digest[adapter.digest]
            slot.digest = None
            raise
        finally:
            self._give_back([slot])

    def _give_back(self, slots: Sequence[_Slot]) -> None:
        for slot in slots:
            slot.num_leases -= 1
        self._serve_line()

    def _leave_line(self, waiter: _Waiter) -> None:
        if self._line[0] is waiter:
            self._reserve([])
        self._line.remove(waiter)
        self._serve_line()

    def _serve_line(self) -> None:
        """Grants the head as long as it can be granted, then whoever behind it needs nothing new."""
        for turn in self._evictions:
            turn.set()
        while self._line:
            head = self._line[0]
            if not head.granted.done():
                slots = self._grant(head.adapters)
                if slots is None:
                    break
                head.granted.set_result(slots)
            self._line.popleft()
        for waiter in list(self._line)[1:]:
            slots = None if waiter.granted.done() else self._resident_slots(waiter.adapters)
            if slots is not None:
                self._line.remove(waiter)
                waiter.granted.set_result(self._hold(slots))
