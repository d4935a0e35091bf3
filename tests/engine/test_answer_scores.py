"""The last reading of each choice of an answer, from the outputs of vLLM's engine, without one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from steer_server.engine.answer_scores import AnswerScores, Readings
from steer_server.engine.reward_tap import answer_id


class Processor:
    """Stands for vLLM's output processor: it knows the requests that have not ended in this process."""

    def __init__(self, *known: str) -> None:
        self.request_states = dict.fromkeys(known)
        self.processed: list[Any] = []

    def process_outputs(self, outputs: list[Any], timestamp: float, stats: Any = None) -> list[Any]:
        self.processed += outputs
        return outputs


def output(request_id: str, reading: Any) -> Any:
    return SimpleNamespace(request_id=request_id, prompt_token_id_logprobs=reading)


async def two_steps() -> AsyncIterator[str]:
    yield "first"
    yield "last"


async def test_the_last_reading_of_every_choice_is_kept_until_the_answer_ends() -> None:
    asked = answer_id()
    first, second = f"0_{asked}-3f2a91bc", f"1_{asked}-3f2a91bc"
    processor = Processor(first, second)
    scores = AnswerScores(processor)
    readings: Readings = {}
    outputs = scores.note(asked, readings, two_steps())
    assert await anext(outputs) == "first"
    for step in ([output(first, 1), output(second, 2)], [output(first, 3), output(second, None)]):
        assert processor.process_outputs(step, 0.5, stats=None) is step
    assert readings == {0: 3, 1: 2} and len(processor.processed) == 4
    assert [one async for one in outputs] == ["last"] and len(scores) == 0
    processor.process_outputs([output(first, 9)], 0.5)
    assert readings == {0: 3, 1: 2}


async def test_a_token_behind_the_one_that_ended_a_choice_counts_for_nothing() -> None:
    asked = answer_id()
    processor = Processor(asked)
    readings: Readings = {}
    outputs = AnswerScores(processor).note(asked, readings, two_steps())
    await anext(outputs)
    processor.process_outputs([output(asked, "the last")], 0.5)
    del processor.request_states[asked]  # as when a stop string was found
    processor.process_outputs([output(asked, "behind it")], 0.5)
    assert readings == {0: "the last"}
    await outputs.aclose()


async def test_other_requests_with_readings_are_left_alone() -> None:
    asked, other, text = answer_id(), answer_id(), "steer-score-1"
    processor = Processor(asked, other, text)
    readings: Readings = {}
    outputs = AnswerScores(processor).note(asked, readings, two_steps())
    await anext(outputs)
    processor.process_outputs([output(other, 1), output(text, 2), output(asked, None)], 0.5)
    assert readings == {}
    await outputs.aclose()


async def test_an_answer_that_is_abandoned_or_fails_leaves_nothing() -> None:
    async def failing() -> AsyncIterator[str]:
        yield "first"
        raise RuntimeError("the engine")

    scores = AnswerScores(Processor())
    never, abandoned, failed = (
        scores.note(answer_id(), {}, one) for one in (two_steps(), two_steps(), failing())
    )
    await anext(abandoned)
    await anext(failed)
    assert len(scores) == 2  # what nobody reads from has not begun
    await abandoned.aclose()
    await never.aclose()
    with pytest.raises(RuntimeError):
        await anext(failed)
    assert len(scores) == 0
