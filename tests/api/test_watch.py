"""What a request leaves in the metrics, with a clock of the test's own."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry
from starlette.responses import JSONResponse, Response, StreamingResponse

from steer_server.api.held import HeldStream
from steer_server.api.watch import RequestWatch
from steer_server.errors import CapacityError, EngineRefusal, SteerError
from steer_server.metrics import Metrics
from steer_server.observing.timings import Timings
from steer_server.steering.plan import AdapterGate, SteeringPlan

PLAN = SteeringPlan("adapters", (AdapterGate("amber", "1.0.0", "d", 1.0),))
AMBER = {"adapter": "amber@1.0.0"}
DONE = "data: [DONE]\n\n"


class World:
    """A clock that goes on by a second whenever it is asked, from the request's arrival at 0."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.metrics.adapters.keep(["amber@1.0.0"])
        ticks = itertools.count(1)
        self.watch = RequestWatch(
            self.metrics, "chat", Timings(started=0.0), clock=lambda: float(next(ticks))
        )
        self.watch.plan = PLAN

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    async def read(self, events: Sequence[str], *, is_live: bool = True) -> list[str]:
        """What the client gets."""
        response = await self.watch.response(_made(_stream(events, is_live=is_live)))
        assert isinstance(response, StreamingResponse)
        return [cast(str, event) async for event in response.body_iterator]


async def _made(response: Response) -> Response:
    return response


async def _raised(error: Exception) -> Response:
    raise error


def _stream(events: Sequence[str], *, is_live: bool) -> StreamingResponse:
    async def passing() -> AsyncIterator[str]:
        for event in events:
            yield event

    return HeldStream(passing(), cast(Any, None), {}) if is_live else StreamingResponse(passing())


def token(index: int = 0, **delta: str) -> str:
    choice = {"index": index, "delta": delta or {"content": "word"}}
    return f"data: {json.dumps({'id': '1', 'choices': [choice]})}\n\n"


@pytest.fixture
def world() -> World:
    return World()


async def test_a_stream_is_timed_from_its_first_token_to_its_last(world: World) -> None:
    events = [token(), token(), token(), DONE]
    assert await world.read(events) == events
    assert world.value("steer_time_to_first_token_seconds_sum", method="adapters") == 1
    assert world.value("steer_time_per_output_token_seconds_sum", method="adapters") == (3 - 1) / (3 - 1)
    assert world.value("steer_request_duration_seconds_sum", route="chat", method="adapters") == 4
    assert world.value("steer_requests_total", route="chat", method="adapters", status="200") == 1


async def test_the_event_that_opens_a_chat_comes_with_the_first_token(world: World) -> None:
    await world.read([token(role="assistant", content=""), token(), token(), DONE])
    # At 1, 2 and 3: two tokens.
    assert world.value("steer_time_to_first_token_seconds_sum", method="adapters") == 1
    assert world.value("steer_time_per_output_token_seconds_sum", method="adapters") == (3 - 1) / (2 - 1)


async def test_choices_are_timed_by_themselves(world: World) -> None:
    await world.read([token(0), token(1), token(0), token(1), token(0), DONE])
    assert world.value("steer_time_to_first_token_seconds_count", method="adapters") == 1
    assert world.value("steer_time_per_output_token_seconds_count", method="adapters") == 2
    assert world.value("steer_time_per_output_token_seconds_sum", method="adapters") == 4 / 2 + 2 / 1


async def test_events_without_a_choice_are_no_tokens(world: World) -> None:
    usage = 'data: {"choices": [], "usage": {"total_tokens": 3}}\n\n'
    await world.read([": keep-alive\n\n", token(), token(), usage, DONE])
    assert world.value("steer_time_per_output_token_seconds_sum", method="adapters") == 1
    assert world.value("steer_time_to_first_token_seconds_sum", method="adapters") == 1


async def test_text_that_looks_like_an_index_is_none(world: World) -> None:
    await world.read([token(content='"index": 7'), token(content='"index": 8'), DONE])
    assert world.value("steer_time_per_output_token_seconds_count", method="adapters") == 1


async def test_a_stream_that_comes_all_at_once_has_no_time_per_token(world: World) -> None:
    await world.read([token(), token(), DONE], is_live=False)
    assert world.value("steer_time_to_first_token_seconds_count", method="adapters") == 1
    assert world.value("steer_time_per_output_token_seconds_count", method="adapters") == 0


async def test_an_error_in_the_stream_is_counted_and_not_timed(world: World) -> None:
    await world.read([token(), token(), 'data: {"error": {"message": "gone"}}\n\n', DONE])
    assert world.value("steer_request_errors_total", route="chat", method="adapters", code="in_stream") == 1
    assert world.value("steer_adapter_requests_total", outcome="failed", **AMBER) == 1
    assert world.value("steer_request_duration_seconds_count", route="chat", method="adapters") == 0
    assert world.value("steer_time_per_output_token_seconds_count", method="adapters") == 0


async def test_a_client_that_leaves_its_stream_is_counted_as_gone(world: World) -> None:
    response = await world.watch.response(_made(_stream([token(), token()], is_live=True)))
    assert isinstance(response, StreamingResponse)
    events = cast(Any, response.body_iterator)
    await anext(events)
    await events.aclose()
    assert world.value("steer_adapter_requests_total", outcome="left", **AMBER) == 1
    assert world.value("steer_request_errors_total", route="chat", method="adapters", code="in_stream") == 0


@pytest.mark.parametrize(
    ("error", "code", "status", "outcome"),
    [
        (CapacityError("full"), "no_bank_slot", "503", "refused"),
        (SteerError("broken"), "internal_error", "500", "failed"),
        (
            EngineRefusal({"error": {"code": "whatever the engine says"}}, 400),
            "refused_by_engine",
            "400",
            "refused",
        ),
    ],
)
async def test_an_error_is_answered_and_counted_by_its_code(
    world: World, error: SteerError, code: str, status: str, outcome: str
) -> None:
    response = await world.watch.response(_raised(error))
    assert response.status_code == int(status)
    assert world.value("steer_request_errors_total", route="chat", method="adapters", code=code) == 1
    assert world.value("steer_requests_total", route="chat", method="adapters", status=status) == 1
    assert world.value("steer_adapter_requests_total", outcome=outcome, **AMBER) == 1


async def test_a_bug_is_counted_and_raised(world: World) -> None:
    with pytest.raises(ZeroDivisionError):
        await world.watch.response(_raised(ZeroDivisionError()))
    assert world.value("steer_requests_total", route="chat", method="adapters", status="500") == 1


async def test_a_request_that_was_not_planned_has_no_method(world: World) -> None:
    world.watch.plan = None
    await world.watch.response(_raised(CapacityError("full")))
    assert world.value("steer_requests_total", route="chat", method="unknown", status="503") == 1


async def test_an_adapter_that_was_removed_meanwhile_is_not_counted_for(world: World) -> None:
    world.metrics.adapters.note_load("amber@1.0.0", cast(Any, "answered"))
    await world.watch.response(_made(JSONResponse({})))
    assert world.value("steer_adapter_request_duration_seconds_count", **AMBER) == 1
    world.metrics.adapters.keep([])
    await world.watch.response(_made(JSONResponse({})))
    left = [s for family in world.registry.collect() for s in family.samples if "adapter" in s.labels]
    assert left == []
