"""LoadedHeads: a version stays while it is used, is loaded once, and few are kept."""

from __future__ import annotations

import asyncio

import pytest

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.snapshot import LoadedRewardHead
from steer_server.engine.fake import FakeEngine
from steer_server.engine.heads import LoadedHeads
from steer_server.errors import EngineError
from tests.support.adapters import TINY, tiny_base_model
from tests.support.heads import loaded_head


class CountingEngine(FakeEngine):
    """Remembers every load and drop, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.acts: list[str] = []

    async def load_head(self, head: LoadedRewardHead) -> None:
        await super().load_head(head)
        self.acts.append(f"load {head.name}")

    async def drop_head(self, digest: str) -> None:
        await super().drop_head(digest)
        self.acts.append("drop")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base_model(tmp_path_factory.mktemp("model") / TINY)


@pytest.fixture(scope="module")
def three(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> list[LoadedRewardHead]:
    folder = tmp_path_factory.mktemp("heads")
    return [loaded_head(folder, f"head-{name}", base) for name in ("a", "b", "c")]


async def test_requests_together_load_a_head_once(three: list[LoadedRewardHead]) -> None:
    engine = CountingEngine()
    heads = LoadedHeads(engine)

    async def use() -> None:
        async with heads.hold(three[:2]):
            assert engine.heads >= {head.digest for head in three[:2]}

    await asyncio.gather(*(use() for _ in range(8)))
    assert engine.acts == ["load head-a", "load head-b"]


async def test_evicting_a_head_waits_for_those_who_use_it(three: list[LoadedRewardHead]) -> None:
    engine = CountingEngine()
    heads = LoadedHeads(engine)
    async with heads.hold(three[:1]):
        evicting = asyncio.create_task(heads.evict(three[0].digest))
        await asyncio.sleep(0.01)
        assert not evicting.done() and three[0].digest in engine.heads
    await asyncio.wait_for(evicting, 60)
    assert not engine.heads


async def test_a_head_that_is_used_again_before_it_is_dropped_is_loaded_again(
    three: list[LoadedRewardHead],
) -> None:
    engine = CountingEngine()
    heads = LoadedHeads(engine)
    async with heads.hold(three[:1]):
        pass
    evicting = asyncio.create_task(heads.evict(three[0].digest))
    for _ in range(20):
        async with heads.hold(three[:1]):
            assert three[0].digest in engine.heads
    await asyncio.wait_for(evicting, 60)


@pytest.mark.parametrize("stays", [True, False], ids=["who scores", "nobody any more"])
async def test_evicting_a_head_that_is_being_loaded_waits_for_that_and_for_who_scores(
    three: list[LoadedRewardHead], stays: bool
) -> None:
    """Its files may be deleted afterwards, and nothing would drop it later."""
    engine = CountingEngine()
    engine.token_seconds = 0.03
    heads = LoadedHeads(engine)
    scoring, is_done = asyncio.Event(), asyncio.Event()

    async def use() -> None:
        async with heads.hold(three[:1]):
            scoring.set()
            await is_done.wait()

    using = asyncio.create_task(use())
    await asyncio.sleep(0)
    evicting = asyncio.create_task(heads.evict(three[0].digest))
    if stays:
        await scoring.wait()
        assert not evicting.done() and three[0].digest in engine.heads
        is_done.set()
    else:
        using.cancel()
    await asyncio.wait_for(evicting, 60)
    await asyncio.gather(using, return_exceptions=True)
    assert engine.acts == ["load head-a", "drop"] and not heads.loaded


async def test_evicting_what_is_not_loaded_does_nothing() -> None:
    engine = CountingEngine()
    await LoadedHeads(engine).evict("nobody")
    assert not engine.acts


async def test_the_least_recently_used_head_is_dropped_and_one_in_use_is_not(
    three: list[LoadedRewardHead],
) -> None:
    engine = CountingEngine()
    heads = LoadedHeads(engine, max_loaded=2)
    a, b, c = three
    async with heads.hold([a]):
        async with heads.hold([b]):
            pass
        async with heads.hold([c]):
            assert heads.loaded == {a.digest, c.digest}
        async with heads.hold([b, c]):
            assert heads.loaded == {a.digest, b.digest, c.digest}


async def test_a_head_that_failed_to_load_is_tried_again(three: list[LoadedRewardHead]) -> None:
    engine = CountingEngine()
    heads = LoadedHeads(engine)
    engine.failing_digests.add(three[1].digest)
    with pytest.raises(EngineError, match=r"head-b@1\.0\.0"):
        async with heads.hold(three[:2]):
            pass
    engine.failing_digests.clear()
    async with heads.hold(three[:2]):
        assert len(engine.heads) == 2


async def test_a_caller_that_goes_away_leaves_the_load_to_finish(three: list[LoadedRewardHead]) -> None:
    engine = CountingEngine()
    engine.token_seconds = 0.05
    heads = LoadedHeads(engine)

    async def use() -> None:
        async with heads.hold(three[:1]):
            raise AssertionError("it was cancelled before")

    using = asyncio.create_task(use())
    await asyncio.sleep(0.01)
    using.cancel()
    await asyncio.gather(using, return_exceptions=True)
    async with heads.hold(three[:1]):
        pass
    assert engine.acts == ["load head-a"]
    await asyncio.wait_for(heads.evict(three[0].digest), 60)
