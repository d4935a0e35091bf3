"""Quarantine with `abort` on the real app with a slow FakeEngine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest

from tests.support.adapters import TINY, tiny_base_model
from tests.support.servers import Running, fake_server
from tests.support.waiting import until


@pytest.fixture
async def slow(tmp_path: Path) -> AsyncIterator[Running]:
    tiny_base_model(tmp_path / TINY)
    async with fake_server(tmp_path, tmp_path / TINY, token_seconds=0.01) as running:
        yield running


async def quarantine(server: Running, name: str, *, abort: bool) -> None:
    async with server.http() as http:
        answer = await http.post(
            f"/v1/adapters/{name}/versions/1.0.0/quarantine", json={"detail": "test", "abort": abort}
        )
        assert answer.status_code == 200, answer.text


async def streamed(server: Running, culture: str, started: asyncio.Event, max_tokens: int = 100) -> list[str]:
    words = []
    async with server.client() as client:
        stream = await client.chat.completions.create(
            model=server.model,
            messages=[{"role": "user", "content": "hello"}],
            max_tokens=max_tokens,
            stream=True,
            extra_body={"steering": {"cultures": {culture: 1.0}}},
        )
        async for chunk in stream:
            if chunk.choices:
                words.append(chunk.choices[0].delta.content or "")
                started.set()
    return words


async def test_a_running_stream_ends_with_an_error_when_its_adapter_is_quarantined_with_abort(
    slow: Running,
) -> None:
    started = asyncio.Event()
    stream = asyncio.create_task(streamed(slow, "amber", started, max_tokens=2000))
    await started.wait()
    await quarantine(slow, "amber", abort=True)
    with pytest.raises(openai.APIError, match="was quarantined while it answered"):
        await stream
    assert slow.fake is not None and slow.fake.num_running == 0


async def test_a_running_answer_is_an_error_when_its_adapter_is_quarantined_with_abort(
    slow: Running,
) -> None:
    assert slow.fake is not None
    async with slow.client() as client:
        answer = asyncio.create_task(
            client.chat.completions.create(
                model=slow.model,
                messages=[{"role": "user", "content": "hello"}],
                max_tokens=2000,
                extra_body={"steering": {"cultures": {"amber": 0.5, "blue": 0.5}}},
            )
        )
        engine = slow.fake
        await until(lambda: engine.num_running)
        await quarantine(slow, "amber", abort=True)
        with pytest.raises(openai.ConflictError) as caught:
            await answer
    assert caught.value.code == "adapter_quarantined"


async def test_without_abort_running_streams_finish_and_new_requests_are_refused(slow: Running) -> None:
    started = asyncio.Event()
    stream = asyncio.create_task(streamed(slow, "amber", started))
    await started.wait()
    await quarantine(slow, "amber", abort=False)
    with pytest.raises(openai.BadRequestError, match="amber"):
        await streamed(slow, "amber", asyncio.Event())
    assert len(await stream) == 100


@pytest.mark.parametrize("is_chat", [False, True], ids=["rewards", "chat"])
async def test_scoring_is_an_error_when_a_head_is_quarantined_with_abort(
    slow: Running, is_chat: bool
) -> None:
    assert slow.fake is not None
    messages = [{"role": "user", "content": "hello"}]
    path, body = "/v1/rewards", {"messages": messages, "answers": ["yes"], "heads": ["warm"]}
    if is_chat:
        steering = {"method": "best_of_n", "reward_heads": ["warm"], "options": {"n": 2}}
        path, body = "/v1/chat/completions", {"messages": messages, "max_tokens": 1, "steering": steering}
    num_asked, num_scored = len(slow.fake.asked), len(slow.fake.scored)
    slow.fake.token_seconds = 0.5
    async with slow.http() as http:
        scoring = asyncio.create_task(http.post(path, json=body))
        while is_chat and len(slow.fake.asked) == num_asked:
            await asyncio.sleep(0.01)
        slow.fake.token_seconds = 60.0  # of the scoring, which has not begun
        while len(slow.fake.scored) == num_scored:
            await asyncio.sleep(0.01)
        await quarantine(slow, "head-warm", abort=True)
        answer = await scoring
    assert answer.status_code == 409 and answer.json()["error"]["code"] == "adapter_quarantined"
    assert slow.fake.num_running == 0
