"""diffpo on an upstream's draft: the upstream writes, the local model denoises."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.upstream import Exchange, completion
from tests.upstream.conftest import World

DRAFT = "w01 w02 w03 w57. w04 w05 w06 w58. w07 w08 w09 w60."
STEERING = {"cultures": {"amber": 0.2}, "method": "diffpo", "options": {"candidates": 16}}


def writes(text: str, **more: Any) -> Any:
    async def behaviour(exchange: Exchange) -> None:
        await exchange.reply(200, {**completion(text), **more})

    return behaviour


async def test_the_local_model_denoises_what_the_upstream_wrote(world: World) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 12, "total_tokens": 19}
    world.upstream.behaviour = writes(DRAFT, usage=usage)
    answer = await world.ask(max_tokens=24, extra_body={"steering": STEERING})
    found = answer.steering["denoising"]
    assert found["draft"] == DRAFT and found["draft_by"] == answer.model == "up/big"
    assert found["outcome"] == "improved" and answer.choices[0].message.content != DRAFT
    assert answer.usage.prompt_tokens == 7
    assert answer.usage.completion_tokens == 12 + found["forward_tokens"]["generated"]
    (exchange,) = world.upstream.received
    assert exchange.body["model"] == "big" and "steering" not in exchange.body


async def test_an_adapter_that_is_removed_meanwhile_goes_when_the_request_has_ended(world: World) -> None:
    """It was planned with it, and waits for the draft before it needs a slot."""
    is_asked, may_answer = asyncio.Event(), asyncio.Event()

    async def slowly(exchange: Exchange) -> None:
        is_asked.set()
        await may_answer.wait()
        await exchange.reply(200, completion(DRAFT))

    world.upstream.behaviour = slowly
    answer = asyncio.create_task(world.ask(max_tokens=24, extra_body={"steering": STEERING}))
    await is_asked.wait()
    async with world.server.http() as http:
        await http.post("/v1/adapters/amber/deactivate")
        removing = asyncio.create_task(http.delete("/v1/adapters/amber"))
        await asyncio.sleep(0.2)
        assert not removing.done()
        may_answer.set()
        assert (await answer).steering["denoising"]["outcome"] == "improved"
        assert (await removing).json() == {"removed": ["amber@1.0.0"]}


async def test_a_stream_begins_when_the_answer_is_known(world: World) -> None:
    world.upstream.behaviour = writes(DRAFT)
    whole = await world.ask(extra_body={"steering": STEERING})
    text, chunks = await world.stream(
        extra_body={"steering": STEERING}, stream_options={"include_usage": True}
    )
    assert text == whole.choices[0].message.content
    assert chunks[-1].steering["denoising"]["draft"] == DRAFT and chunks[-2].usage.prompt_tokens == 1
    assert not any(exchange.body.get("stream") for exchange in world.upstream.received)


async def test_an_upstream_that_writes_nothing_has_its_answer_given_back(world: World) -> None:
    world.upstream.behaviour = writes("")
    answer = await world.ask(extra_body={"steering": STEERING})
    assert answer.steering["denoising"]["reason"] == "empty_draft"


async def test_a_client_that_sends_the_draft_needs_no_upstream(world: World) -> None:
    spec = {**STEERING, "options": {"draft": DRAFT}}
    answer = await world.ask("down/big", extra_body={"steering": spec})
    assert answer.model == "down/big" and answer.steering["denoising"]["draft_by"] == "client"


async def test_an_upstream_that_fails_is_an_error_and_not_an_empty_draft(world: World) -> None:
    error = await world.refused(model="down/big", extra_body={"steering": STEERING})
    assert error.status_code == 502
    world.upstream.behaviour = writes("well", usage="garbage")
    answer = await world.ask(extra_body={"steering": STEERING})
    assert answer.usage.completion_tokens >= 0


@pytest.mark.parametrize("choices", [[], [{"index": 0, "message": {"role": "assistant", "content": 7}}]])
async def test_an_answer_without_a_text_is_the_upstreams_fault(world: World, choices: Any) -> None:
    world.upstream.behaviour = writes("", choices=choices)
    error = await world.refused(extra_body={"steering": STEERING})
    assert error.status_code == 502 and error.code == "upstream_garbled"


async def test_a_stream_is_made_of_an_answer_that_lacks_its_envelope(world: World) -> None:
    async def bare(exchange: Exchange) -> None:
        await exchange.reply(200, {"choices": [{"message": {"role": "assistant", "content": DRAFT}}]})

    world.upstream.behaviour = bare
    text, chunks = await world.stream(extra_body={"steering": STEERING})
    assert text and chunks[-1].steering["denoising"]["draft"] == DRAFT


async def test_a_message_that_the_local_model_cannot_read_is_refused_before_the_upstream_is_asked(
    world: World,
) -> None:
    body = {"model": "up/big", "messages": [], "steering": STEERING}
    async with world.server.http() as http:
        response = await http.post("/v1/chat/completions", json=body)
    assert response.status_code == 400 and world.upstream.received == []
