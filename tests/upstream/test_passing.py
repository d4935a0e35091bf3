"""What an upstream answers reaches the client as it is, and what only our own model can do is refused."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from tests.support.upstream import KEY, Exchange, chunk
from tests.support.waiting import until
from tests.upstream.conftest import SECONDS, World


async def test_an_answer_comes_from_the_upstream_under_our_name_for_its_model(world: World) -> None:
    answer = await world.ask(temperature=0.5, extra_body={"top_k": 3})
    assert answer.choices[0].message.content == "well" and answer.model == "up/big"
    (received,) = world.upstream.received
    assert received.path == "/v1/chat/completions"
    assert received.body == {
        "model": "big",
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0.5,
        "top_k": 3,
    }
    assert received.headers["authorization"] == f"Bearer {KEY}"


async def test_the_clients_own_headers_stay_here(world: World) -> None:
    await world.ask(extra_headers={"Cookie": "mine", "X-Api-Key": "mine"})
    assert "mine" not in str(world.upstream.received[0].headers)
    assert world.server.key not in world.upstream.received[0].headers["authorization"]


async def test_a_stream_is_passed_on_chunk_by_chunk(world: World) -> None:
    may_go_on = asyncio.Event()

    async def waits(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.piece(b": one moment\n\n")
        await exchange.words("first")
        await may_go_on.wait()
        await exchange.words(" second")
        await exchange.end_stream()

    world.upstream.behaviours = [waits]
    async with world.client() as client:
        events = await client.chat.completions.create(
            model="up/big", messages=[{"role": "user", "content": "hello"}], stream=True
        )
        words = []
        async for part in events:
            assert part.model == "up/big"
            words.append(part.choices[0].delta.content)
            may_go_on.set()
    assert words == ["first", " second"]


async def test_completions_are_passed_on_too(world: World) -> None:
    async with world.client() as client:
        whole = await client.completions.create(model="up/big", prompt="hello")
        events = await client.completions.create(model="up/big", prompt="hello", stream=True)
        text = "".join([part.choices[0].text async for part in events])
    assert whole.choices[0].text == text == "well"
    assert {received.path for received in world.upstream.received} == {"/v1/completions"}


async def test_method_none_is_reported_and_not_sent_on(world: World) -> None:
    steering = {"steering": {"method": "none"}}
    answer = await world.ask(extra_body=steering)
    _, chunks = await world.stream(extra_body=steering)
    for said in (answer.steering, chunks[-1].steering):
        assert said["method"] == "none" and said["applied"] == []
    assert not any("steering" in received.body for received in world.upstream.received)


@pytest.mark.parametrize(
    "steering",
    [
        {"cultures": {"amber": 1.0}},
        {"cultures": {"unknown": 1.0}, "method": "adapters"},
        {"values": {"helpful": 1.0}},
    ],
)
async def test_steering_that_needs_weights_is_refused_and_the_methods_that_work_are_named(
    world: World, steering: dict[str, Any]
) -> None:
    for where in (
        {"extra_body": {"steering": steering}},
        {"extra_headers": {"X-Steering": json.dumps(steering)}},
    ):
        error = await world.refused(**where)
        assert error.status_code == 400 and error.code == "method_unavailable"
        assert str(error.param).endswith("teering.method")
        assert "`model` 'up/big'" in error.message
        assert "Methods that do: align_pro, diffpo, none" in error.message
    async with world.server.http() as http:
        planned = await http.post("/v1/steering/plan", json={"model": "up/big", "steering": steering})
    assert planned.status_code == 400 and planned.json()["error"]["param"] == "steering.method"
    assert not world.upstream.received


async def test_reward_heads_are_refused_and_not_ignored(world: World) -> None:
    error = await world.refused(extra_body={"steering": {"method": "none", "reward_heads": ["kind"]}})
    assert error.status_code == 400 and error.param == "steering.reward_heads"
    assert not world.upstream.received


async def test_an_upstream_that_does_not_end_its_response_does_not_keep_the_client(world: World) -> None:
    async def lingers(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.words("well")
        await exchange.event("[DONE]")
        await exchange.client_left()

    world.upstream.behaviours = [lingers]
    assert (await asyncio.wait_for(world.stream(), 60))[0] == "well"


async def test_a_model_that_was_never_listed_is_for_the_upstream_to_judge(world: World) -> None:
    await world.ask("up/family/new@tag")
    assert world.upstream.received[0].body["model"] == "family/new@tag"


@pytest.mark.parametrize("model", ["up", "up/", "nowhere/big", "/big"])
async def test_names_that_are_no_upstreams_are_our_own_unknown_models(world: World, model: str) -> None:
    error = await world.refused(model=model)
    assert isinstance(error, openai.NotFoundError) and not world.upstream.received


async def test_models_of_upstreams_are_listed_beside_ours_and_follow_changes(world: World) -> None:
    assert {"fake", "fake@amber", "up/big"} <= set(await world.models())
    async with world.client() as client:
        card = await client.models.retrieve("up/big")
    assert (card.owned_by, card.created) == ("up", 7)
    rows = [{"id": "new"}, {"id": 3}, "x", {"id": ""}, {"id": "a\nb"}]
    world.upstream.models = (200, {"data": rows})
    async with asyncio.timeout(60):
        while "up/new" not in await world.models():
            await asyncio.sleep(0.02)
    assert "up/big" not in await world.models()


@pytest.mark.parametrize("answer", [(500, "oops"), (200, "oops"), (200, {"data": 1}), (401, {"error": KEY})])
async def test_what_was_known_stays_listed_when_the_next_list_fails(
    world: World, answer: tuple[int, Any]
) -> None:
    world.upstream.models = answer
    await asyncio.sleep(0.3)
    assert "up/big" in await world.models()


async def test_connections_are_used_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steer_server.upstream.relay.DRAIN_SECONDS", 60.0)
    before = world.upstream.num_connections
    for _ in range(5):
        await world.ask()
        await world.stream()
        await world.stream(extra_body={"steering": {"method": "none"}})
    assert world.upstream.num_connections - before <= 1


async def test_a_client_that_leaves_a_stream_ends_the_upstreams_work(world: World) -> None:
    left = asyncio.Event()

    async def silent(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.words("one")
        await exchange.client_left()
        left.set()

    world.upstream.behaviours = [silent]
    async with world.client() as client:
        events = await client.chat.completions.create(
            model="up/big", messages=[{"role": "user", "content": "hello"}], stream=True
        )
        await anext(aiter(events))
        await events.close()
        # Sooner than the upstream's silence would have ended it.
        await asyncio.wait_for(left.wait(), SECONDS["between_bytes"] / 2)
    await until(lambda: world.metric("upstream_requests_total", upstream="up", outcome="client_left") == 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_the_answer_ends_the_upstreams_work(
    world: World, stream: bool
) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def silent(exchange: Exchange) -> None:
        asked.set()
        await exchange.client_left()
        left.set()

    world.upstream.behaviours = [silent]
    asking = asyncio.create_task(world.stream() if stream else world.ask())
    await asked.wait()
    asking.cancel()
    await asyncio.wait_for(left.wait(), SECONDS["first_byte"] / 2)
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_client_that_does_not_read_slows_the_upstream_down(world: World) -> None:
    num_sent = 0
    big = "x" * 2**16

    async def floods(exchange: Exchange) -> None:
        nonlocal num_sent
        await exchange.start_stream()
        for _ in range(2000):
            await exchange.event(chunk(big))
            num_sent += 1
        await exchange.end_stream()

    world.upstream.behaviours = [floods]
    async with world.client() as client:
        events = await client.chat.completions.create(
            model="up/big", messages=[{"role": "user", "content": "hello"}], stream=True
        )
        await anext(aiter(events))
        stuck = -1
        while num_sent > stuck:
            stuck = num_sent
            await asyncio.sleep(0.5)
        # 125 MiB were to be sent; what is under way fits into the buffers of four sockets.
        assert stuck < 600
        await events.close()


async def test_the_time_to_the_first_byte_is_measured(world: World) -> None:
    await world.ask()
    await world.stream()
    assert world.metric("upstream_first_byte_seconds", upstream="up") == 2
    assert world.metric("upstream_requests_total", upstream="up", outcome="2xx") == 2
