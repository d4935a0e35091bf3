"""A run that is stopped, however far it has come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from steer_server.errors import EngineError
from steer_server.steering.plan import AdapterGate, SteeringPlan
from tests.support.vllm_warnings import IMPORTS_VLLM

pytestmark = IMPORTS_VLLM

PLAN = SteeringPlan("adapters", (AdapterGate("a", "1.0.0", "d" * 64, 0.5),))


class SlowEngine:
    """What `VllmRun` asks of an engine. A request is known `reaching` seconds after it is asked for."""

    def __init__(self, reaching: float = 0.0) -> None:
        from steer_server.engine.plan_ids import PlanIds
        from steer_server.engine.vllm_run import SteeredClient

        self.client, self.plan_ids, self.reaching = self, PlanIds(4), reaching
        self.steered = SteeredClient(self)
        self.is_asked = asyncio.Event()
        self.running: set[str] = set()

    async def generate(
        self, prompt: str, sampling: None, request_id: str, **options: Any
    ) -> AsyncIterator[str]:
        self.is_asked.set()
        await asyncio.sleep(self.reaching)
        self.running.add(request_id)
        while request_id in self.running:
            await asyncio.sleep(0.001)
        yield "aborted"

    async def abort(self, request_ids: list[str]) -> None:
        self.running -= set(request_ids)


def running(engine: SlowEngine) -> Any:
    """A run on it, as the current one."""
    from steer_server.engine.vllm_run import VllmRun, _current_run

    run = VllmRun(engine, "chat", {}, PLAN, None)  # type: ignore[arg-type]
    run.lora_request = engine.plan_ids.take(run.plan)
    _current_run.set(run)
    return run


async def test_a_run_that_was_stopped_begins_nothing_in_the_engine() -> None:
    """Neither a prompt that was being read when it was stopped, nor a stream that is read from only then."""
    engine = SlowEngine()
    run = running(engine)
    stream = engine.steered.generate("prompt", None, "chatcmpl-1")
    await run.stop()
    for outputs in (stream, engine.steered.generate("prompt", None, "chatcmpl-1")):
        with pytest.raises(EngineError):
            await anext(outputs)
    assert not engine.is_asked.is_set()


async def test_stopping_waits_for_a_request_that_is_on_its_way_to_the_engine() -> None:
    """Until then its slots are not given back."""
    engine = SlowEngine(reaching=0.1)
    run = running(engine)
    outputs = engine.steered.generate("prompt", None, "chatcmpl-1")
    reading = asyncio.create_task(anext(outputs))
    await engine.is_asked.wait()
    async with asyncio.timeout(10):
        await run.stop()
    assert await reading == "aborted" and not engine.running
    assert not engine.plan_ids._num_users


@pytest.mark.parametrize("is_stopped", [False, True])
async def test_a_run_that_reads_heads_has_an_id_of_ours_and_leaves_nothing(is_stopped: bool) -> None:
    from steer_server.engine.answer_scores import AnswerScores
    from steer_server.engine.reward_tap import ANSWER_ID

    engine: Any = SlowEngine()
    engine.request_states, engine.process_outputs = engine.running, lambda outputs: outputs
    engine.answer_scores = AnswerScores(engine)
    run = running(engine)
    run.reads_heads = True
    outputs = engine.steered.generate("prompt", None, "chatcmpl-1")
    reading = asyncio.create_task(anext(outputs))
    while not engine.running:
        await asyncio.sleep(0.001)
    (request_id,) = run.request_ids
    assert ANSWER_ID.fullmatch(request_id) and engine.running == {request_id}
    engine.process_outputs([SimpleNamespace(request_id=request_id, prompt_token_id_logprobs=[[1, 0.5]])])
    assert run.readings == {0: [[1, 0.5]]} and len(engine.answer_scores) == 1
    if is_stopped:
        await run.stop()
        await reading
    else:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    await outputs.aclose()
    assert len(engine.answer_scores) == 0
