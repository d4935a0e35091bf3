"""The parts of the vLLM engine that need no running model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from steer_server.errors import CapacityError, EngineError, EngineRefusal
from steer_server.steering.plan import SteeringPlan, build_plan
from steer_server.steering.policy import Policy
from steer_server.steering.spec import SteeringSpec
from tests.support.adapters import planned_catalogue

pytestmark = [
    # Importing vLLM warns of its own and its libraries' deprecations.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

CATALOGUE = planned_catalogue(["a"])


def plan(weight: float) -> SteeringPlan:
    return build_plan(SteeringSpec(cultures={"a": weight}), CATALOGUE, Policy())


def test_a_plan_keeps_its_id_and_its_journey_ends_where_it_began() -> None:
    from steer_server.engine.vllm_engine import FIRST_PLAN_ID, PlanIds

    ids = PlanIds(max_plans=8)
    first = ids.take(plan(0.5))
    assert first.lora_int_id >= FIRST_PLAN_ID and first.lora_name == plan(0.5).digest
    assert SteeringPlan.from_json(first.lora_path) == plan(0.5)
    ids.give_back(plan(0.5))
    assert ids.take(plan(0.5)).lora_int_id == first.lora_int_id


def test_ids_are_never_used_twice_and_the_memory_of_plans_is_bounded() -> None:
    from steer_server.engine.vllm_engine import PlanIds

    ids = PlanIds(max_plans=3)
    seen = []
    for i in list(range(1, 11)) * 2:
        seen.append(ids.take(plan(i / 10)).lora_int_id)
        ids.give_back(plan(i / 10))
    assert len(set(seen)) == 20 and len(ids) == 3


def test_a_plan_in_use_is_not_forgotten() -> None:
    """vLLM takes two requests of one name for the same, whatever their ids."""
    from steer_server.engine.vllm_engine import PlanIds

    ids = PlanIds(max_plans=2)
    used = ids.take(plan(1.0))
    for i in range(1, 9):
        ids.take(plan(i / 10))
        ids.give_back(plan(i / 10))
    assert ids.take(plan(1.0)).lora_int_id == used.lora_int_id


class SlowEngine:
    """What `VllmRun` asks of an engine. A request is known `reaching` seconds after it is asked for."""

    def __init__(self, reaching: float = 0.0) -> None:
        from steer_server.engine.vllm_engine import PlanIds, SteeredClient

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
    from steer_server.engine.vllm_engine import VllmRun, _current_run

    run = VllmRun(engine, "chat", {}, plan(0.5), None)  # type: ignore[arg-type]
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


def test_every_error_of_vllm_becomes_one_of_ours() -> None:
    """A client's fault is 4xx, a full queue 503 with Retry-After, all else 502; nothing is a bare 500."""
    import vllm.exceptions
    from vllm.v1.engine.exceptions import EngineDeadError

    from steer_server.engine.translate import failure

    def make(cls: type[Exception]) -> Exception:
        for arguments in ((), ("told",), ("told", HTTPStatus.SERVICE_UNAVAILABLE), (2, 1), ("a", "b")):
            try:
                return cls(*arguments)
            except TypeError:
                continue
        raise AssertionError(f"cannot make {cls}")

    classes = [
        cls
        for cls in vars(vllm.exceptions).values()
        if isinstance(cls, type) and issubclass(cls, vllm.exceptions.VLLMError)
    ]
    assert len(classes) > 8
    for cls in [*classes, ValueError, TypeError, OverflowError, RuntimeError]:
        ours = failure(make(cls))
        assert isinstance(ours, EngineRefusal | EngineError), cls
        assert ours.http_status in (400, 404, 422, 429, 501, 502, 503, 409), (cls, ours.http_status)
        if ours.http_status in (409, 429, 503):
            assert "Retry-After" in ours.headers
    assert isinstance(failure(EngineDeadError()), EngineError)
    assert isinstance(failure(CapacityError("full")), CapacityError)


async def test_a_body_that_vllm_does_not_take_names_the_field() -> None:
    from pydantic import ValidationError
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    from steer_server.engine.translate import invalid_body

    with pytest.raises(ValidationError) as caught:
        ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": "x"}], "n": "three"})
    app = SimpleNamespace(state=SimpleNamespace(args=SimpleNamespace(log_error_stack=False)))
    scope = {"type": "http", "method": "POST", "headers": [], "path": "/", "query_string": b"", "app": app}
    request = Request(scope)
    error = await invalid_body(caught.value, request)
    assert error.http_status == 400 and "n" in str(error)


def test_a_plain_vllm_in_the_same_environment_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an allowlist vLLM loads every installed plugin; ours then does nothing."""
    from vllm.platforms import current_platform

    from steer_server.engine.plugin import WRAPPER, install

    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    install()
    assert current_platform.get_punica_wrapper() != WRAPPER


def test_options_that_the_server_sets_itself_cannot_be_given() -> None:
    from steer_server.catalogue.base_model import BaseModel
    from steer_server.engine.launch import serve
    from steer_server.errors import ConfigError
    from steer_server.settings import Settings

    base = BaseModel("nowhere", "x", frozenset())
    with pytest.raises(ConfigError, match="--max-loras"):
        serve(base, Settings(), "127.0.0.1", 1, ["--max_loras=4"])
