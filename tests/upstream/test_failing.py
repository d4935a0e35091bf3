"""Upstreams that are down, slow, cut or talk nonsense: the right status, no key anywhere (the fixture looks),
and our own model answers all the while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest

from steer_server.upstream.breaker import THRESHOLD
from tests.support.upstream import KEY, Behaviour, Exchange, chunk, completion, well
from tests.support.waiting import until
from tests.upstream.conftest import SECONDS, World

LEAK = {"error": {"message": f"Your key {KEY} is bad", "type": "t", "code": "c", "param": "p", "key": KEY}}


def replies(status: int, content: Any, **headers: str) -> Behaviour:
    async def reply(exchange: Exchange) -> None:
        await exchange.reply(status, content, **headers)

    return reply


def streams(*events: Any) -> Behaviour:
    """These events, then a proper end of the response."""

    async def stream(exchange: Exchange) -> None:
        await exchange.start_stream()
        for data in events:
            await exchange.event(data)
        await exchange.send(b"0\r\n\r\n")

    return stream


async def cut(exchange: Exchange) -> None:
    exchange.cut()


async def silent(exchange: Exchange) -> None:
    await exchange.client_left()


async def cut_in_the_body(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
    exchange.cut()


async def silent_in_the_body(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
    await exchange.client_left()


async def only_comments(exchange: Exchange) -> None:
    await exchange.start_stream()
    while True:
        await exchange.piece(b": wait\n\n")
        await asyncio.sleep(0.1)


async def not_http(exchange: Exchange) -> None:
    await exchange.send(b"SSH-2.0-hello\r\n\r\n")
    exchange.cut()


BEFORE_THE_FIRST_BYTE: dict[str, tuple[Behaviour, bool, int, str]] = {
    "silent": (silent, False, 504, "upstream_timeout"),
    "silent, stream": (silent, True, 504, "upstream_timeout"),
    "silent in the body": (silent_in_the_body, False, 504, "upstream_timeout"),
    "comments without end": (only_comments, True, 504, "upstream_timeout"),
    "cut": (cut, False, 502, "upstream_cut"),
    "cut, stream": (cut, True, 502, "upstream_cut"),
    "cut in the body": (cut_in_the_body, False, 502, "upstream_cut"),
    "not HTTP": (not_http, False, 502, "upstream_cut"),
    "a stream without events": (streams(), True, 502, "upstream_cut"),
    "HTML": (replies(200, "<html>hello</html>"), False, 502, "upstream_garbled"),
    "HTML, stream": (replies(200, "<html>hello</html>"), True, 502, "upstream_garbled"),
    "nothing": (replies(200, ""), False, 502, "upstream_garbled"),
    "half of it": (replies(200, '{"choices": ['), False, 502, "upstream_garbled"),
    "a list": (replies(200, []), False, 502, "upstream_garbled"),
    "no choices": (replies(200, {"answer": 42}), False, 502, "upstream_garbled"),
    "choices of another kind": (replies(200, {"choices": ["well"]}), False, 502, "upstream_garbled"),
    "a choice that says nothing": (
        replies(200, {"choices": [{"index": 0, "message": None}]}),
        False,
        502,
        "upstream_garbled",
    ),
    "not a number": (replies(200, '{"choices": [], "x": NaN}'), False, 502, "upstream_garbled"),
    "JSON for a stream": (replies(200, completion()), True, 502, "upstream_garbled"),
    "a stream of nonsense": (streams("nonsense"), True, 502, "upstream_garbled"),
    "a stream without choices": (streams({"answer": 42}), True, 502, "upstream_garbled"),
    "a redirect": (replies(307, "", location="http://127.0.0.1:9/"), False, 502, "upstream_garbled"),
    "500": (replies(500, LEAK), False, 502, "upstream_failed"),
    "500, stream": (replies(500, LEAK), True, 502, "upstream_failed"),
    "502": (replies(502, "<html>"), False, 502, "upstream_failed"),
    "503": (replies(503, LEAK), False, 503, "upstream_unavailable"),
    "504": (replies(504, LEAK), False, 504, "upstream_timeout"),
    "501": (replies(501, LEAK), False, 502, "upstream_failed"),
    "401": (replies(401, LEAK), False, 502, "upstream_key_refused"),
    "403, stream": (replies(403, LEAK), True, 502, "upstream_key_refused"),
    "an error as an answer": (replies(200, LEAK), False, 502, "upstream_failed"),
    "an error as a stream": (streams(LEAK), True, 502, "upstream_failed"),
}
NEVER_ENDING = (silent, silent_in_the_body, only_comments)


@pytest.mark.parametrize("name", BEFORE_THE_FIRST_BYTE)
async def test_a_failure_before_the_first_byte_has_its_status(world: World, name: str) -> None:
    behaviour, stream, status, code = BEFORE_THE_FIRST_BYTE[name]
    world.upstream.behaviour = behaviour
    patience = world.up.patience
    if behaviour in NEVER_ENDING:
        world.waits(first_byte=1.0, between_bytes=1.0)
    asking = asyncio.create_task(world.refused(stream=stream))
    assert await world.local_text()
    error = await asking
    world.up.patience = patience
    assert (error.status_code, error.code) == (status, code)
    assert "'up'" in error.message and "127.0.0.1" not in error.message
    body: Any = error.body
    assert {"message", "type", "param", "code"} <= body.keys()
    world.upstream.behaviour = well
    assert (await world.ask()).choices[0].message.content == "well"


async def after(exchange: Exchange, end: Callable[[], Awaitable[None]]) -> None:
    await exchange.start_stream()
    await exchange.words("one", " two")
    await end()


async def cut_later(exchange: Exchange) -> None:
    async def end() -> None:
        await asyncio.sleep(0.05)
        exchange.cut()

    await after(exchange, end)


async def silent_later(exchange: Exchange) -> None:
    await after(exchange, exchange.client_left)


async def nonsense_later(exchange: Exchange) -> None:
    await after(exchange, lambda: exchange.event("nonsense"))


async def html_later(exchange: Exchange) -> None:
    await after(exchange, lambda: exchange.piece(b"<html>\n\n"))


async def ends_without_done(exchange: Exchange) -> None:
    await after(exchange, lambda: exchange.send(b"0\r\n\r\n"))


async def tells_an_error(exchange: Exchange) -> None:
    await after(exchange, lambda: exchange.event(LEAK))


async def refuses_later(exchange: Exchange) -> None:
    await after(exchange, lambda: exchange.event({"error": {"message": "too long", "code": 400}}))


AFTER_THE_FIRST_BYTE: dict[str, tuple[Behaviour, str, str]] = {
    "cut": (cut_later, "upstream_cut", "before it was complete"),
    "silent": (silent_later, "upstream_timeout", "nothing more within 1 seconds"),
    "nonsense": (nonsense_later, "upstream_garbled", "not a chunk"),
    "HTML": (html_later, "upstream_garbled", "not a chunk"),
    "no [DONE]": (ends_without_done, "upstream_cut", "before it was complete"),
    "an error": (tells_an_error, "upstream_failed", "Your key \\*\\*\\* is bad"),
    "a refusal": (refuses_later, "400", "too long"),
}


@pytest.mark.parametrize("name", AFTER_THE_FIRST_BYTE)
async def test_a_failure_after_the_first_byte_is_an_event_in_the_stream(world: World, name: str) -> None:
    behaviour, code, message = AFTER_THE_FIRST_BYTE[name]
    world.upstream.behaviours = [behaviour]
    if behaviour is silent_later:
        world.waits(between_bytes=1.0)
    words = []
    async with world.client() as client:
        events = await client.chat.completions.create(
            model="up/big", messages=[{"role": "user", "content": "hello"}], stream=True
        )
        with pytest.raises(openai.APIError, match=message) as caught:
            async for part in events:
                words.append(part.choices[0].delta.content)
                assert await world.local_text()
    assert words == ["one", " two"] and str(caught.value.code) == code
    assert len(world.upstream.received) == 1, "what was begun is not asked for again"


async def test_a_stream_that_failed_ends_as_our_own_do(world: World) -> None:
    world.upstream.behaviours = [cut_later]
    body = {"model": "up/big", "messages": [], "stream": True, "steering": {"method": "none"}}
    async with world.server.http() as http:
        text = (await http.post("/v1/chat/completions", json=body)).text
    *_, before, failure, done, rest = text.split("\n\n")
    assert '" two"' in before and failure.startswith('data: {"error": {"message": "The upstream')
    assert (done, rest) == ("data: [DONE]", "") and '"steering"' not in text


async def test_an_upstream_that_is_down_is_502_and_breaks_nothing_else(world: World) -> None:
    error = await world.refused(model="down/any")
    assert (error.status_code, error.code) == (502, "upstream_unreachable")
    assert world.metric("upstream_retries_total", upstream="down") == 2
    assert not [model for model in await world.models() if model.startswith("down/")]
    assert await world.local_text()
    assert (await world.ask()).choices[0].message.content == "well"
    async with world.server.http() as http:
        assert (await http.get("/ready")).status_code == 200


REFUSALS: dict[str, tuple[Behaviour, int, dict[str, Any]]] = {
    "404": (
        replies(404, {"error": {"message": "no such model", "type": "x", "param": "model", "code": "y"}}),
        404,
        {"message": "no such model", "type": "x", "param": "model", "code": "y"},
    ),
    "400 with a key in it": (
        replies(400, LEAK),
        400,
        {"message": "Your key *** is bad", "type": "t", "param": "p", "code": "c"},
    ),
    "422 of FastAPI": (
        replies(422, {"detail": [{"loc": ["body"]}]}),
        422,
        {"message": "The upstream 'up' answered 422."},
    ),
    "413 in HTML": (replies(413, f"<html>{KEY}"), 413, {"message": "The upstream 'up' answered 413."}),
}


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_an_upstream_refuses_is_the_clients_to_mend(world: World, name: str, stream: bool) -> None:
    behaviour, status, detail = REFUSALS[name]
    for _ in range(THRESHOLD + 1):
        world.upstream.behaviours = [behaviour]
        error = await world.refused(stream=stream)
        assert error.status_code == status
        body: Any = error.body
        assert detail.items() <= body.items() and body.keys() == {"message", "type", "param", "code"}
    assert len(world.upstream.received) == THRESHOLD + 1, "a refusal is neither repeated nor held against it"


async def test_a_refused_key_is_not_the_clients_fault_and_not_worth_a_retry(world: World) -> None:
    world.upstream.behaviours = [replies(401, LEAK)]
    error = await world.refused()
    assert error.status_code == 502 and error.response.headers["x-should-retry"] == "false"
    assert len(world.upstream.received) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_bad_moment_is_tried_again(world: World, status: int, stream: bool) -> None:
    world.upstream.behaviours = [replies(status, LEAK), replies(status, "")]
    answer: Any = await (world.stream() if stream else world.ask())
    assert (answer[0] if stream else answer.choices[0].message.content) == "well"
    assert len(world.upstream.received) == 3
    assert world.metric("upstream_retries_total", upstream="up") == 2
    assert world.metric("upstream_requests_total", upstream="up", outcome=f"{status // 100}xx") == 2
    assert world.metric("upstream_requests_total", upstream="up", outcome="2xx") == 1


@pytest.mark.parametrize("behaviour", [replies(500, ""), cut, cut_in_the_body])
async def test_what_may_have_been_worked_on_is_not_tried_again(world: World, behaviour: Behaviour) -> None:
    world.upstream.behaviours = [behaviour]
    assert (await world.refused()).status_code == 502
    assert len(world.upstream.received) == 1


async def test_retry_after_is_waited_for(world: World) -> None:
    world.upstream.behaviours = [replies(429, LEAK, retry_after="1")]
    started = time.monotonic()
    await world.ask()
    assert time.monotonic() - started >= 1


async def test_a_long_retry_after_is_left_to_the_client(world: World) -> None:
    world.upstream.behaviours = [replies(429, LEAK, retry_after="33")]
    error = await world.refused()
    assert error.status_code == 429 and error.response.headers["retry-after"] == "33"
    assert "Your key *** is bad" in error.message
    assert len(world.upstream.received) == 1


async def test_retries_end_with_their_budget(world: World) -> None:
    world.upstream.behaviour = replies(429, LEAK)
    for _ in range(4):
        await asyncio.gather(*(world.refused() for _ in range(5)))
    # A burst of 10, and one more for every five of the 20 requests.
    assert 10 <= world.metric("upstream_retries_total", upstream="up") <= 14


async def test_an_upstream_that_keeps_failing_is_left_alone_and_found_again(world: World) -> None:
    world.upstream.behaviour = replies(500, LEAK)
    for _ in range(THRESHOLD):
        assert (await world.refused()).status_code == 502
    error = await world.refused()
    assert (error.status_code, error.code) == (503, "upstream_unavailable")
    assert error.response.headers["retry-after"] == "1"
    assert len(world.upstream.received) == THRESHOLD
    assert world.metric("upstream_breaker_state", upstream="up") == 2
    assert await world.local_text()
    world.clock.now += SECONDS["breaker"]
    assert (await world.refused()).status_code == 502, "the probe fails"
    assert (await world.refused()).status_code == 503
    world.clock.now += SECONDS["breaker"]
    world.upstream.behaviour = well
    assert (await world.ask()).choices[0].message.content == "well"
    assert world.metric("upstream_breaker_state", upstream="up") == 0


async def test_a_streaming_probe_lets_the_others_in_with_its_first_byte(world: World) -> None:
    world.upstream.behaviour = replies(500, LEAK)
    for _ in range(THRESHOLD):
        await world.refused()
    world.clock.now += SECONDS["breaker"]
    may_end = asyncio.Event()

    async def long(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.words("one")
        await may_end.wait()
        await exchange.end_stream()

    world.upstream.behaviour = well
    world.upstream.behaviours = [long]
    probing = asyncio.create_task(world.stream())
    await world.breaker_becomes(0)
    assert (await world.ask()).choices[0].message.content == "well"
    may_end.set()
    assert (await probing)[0] == "one"


async def test_streams_that_are_always_cut_count_as_failures(world: World) -> None:
    world.upstream.behaviour = cut_later
    for _ in range(THRESHOLD):
        with pytest.raises(openai.APIError, match="before it was complete"):
            await world.stream()
    assert (await world.refused()).status_code == 503


async def test_an_upstream_that_echoes_the_key_in_an_answer_is_cleaned(world: World) -> None:
    world.upstream.behaviours = [replies(200, completion(f"Bearer {KEY}")), streams(chunk(KEY), "[DONE]")]
    assert (await world.ask()).choices[0].message.content == "Bearer ***"
    assert (await world.stream())[0] == "***"


async def test_many_at_once_on_a_slow_upstream_leave_the_local_model_free(world: World) -> None:
    may_answer = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await may_answer.wait()
        await well(exchange)

    world.upstream.behaviour = slow
    asking = [asyncio.create_task(world.ask()) for _ in range(30)]
    await until(lambda: len(world.upstream.received) == 30)
    assert await world.local_text()
    assert not any(one.done() for one in asking)
    may_answer.set()
    answers = await asyncio.gather(*asking)
    assert {answer.choices[0].message.content for answer in answers} == {"well"}


async def test_many_at_once_on_a_silent_upstream_all_end(world: World) -> None:
    world.upstream.behaviour = silent
    world.waits(first_byte=1.0)
    asking = [asyncio.create_task(world.refused()) for _ in range(30)]
    assert await world.local_text()
    assert {error.status_code for error in await asyncio.gather(*asking)} == {504}
