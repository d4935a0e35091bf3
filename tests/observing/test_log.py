"""The line that a request leaves, its ids, and what is in none."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from datetime import datetime, timedelta
from typing import Any

import openai
import pytest

from tests.observing.conftest import World, logging_into
from tests.support.prompters import QUESTION
from tests.support.upstream import KEY
from tests.support.waiting import until

CULTURES = {"cultures": {"amber": 0.6, "blue": 0.4}}
HEX = re.compile(r"[0-9a-f]{32}")
SECRET = "sesame"


async def post(world: World, path: str = "/v1/chat/completions", **more: Any) -> Any:
    body = {"model": "fake", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 4}
    async with world.prompted.server.http() as http:
        return await http.post(path, json={**body, **more.pop("body", {})}, **more)


async def test_a_request_leaves_one_line_that_says_what_it_was(world: World) -> None:
    answer = await world.prompted.chat(CULTURES, stream=True)
    line = await world.request()
    assert line["message"] == "POST /v1/chat/completions 200" and line["levelname"] == "INFO"
    assert {
        "http_method": "POST",
        "route": "/v1/chat/completions",
        "status": 200,
        "client": "127.0.0.1",
        "method": "adapters",
        "plan": answer[-1].steering["plan"],
        "adapters": ["amber@1.0.0", "blue@1.0.0"],
        "outcome": "answered",
    }.items() <= line.items()
    assert 0 < line["first_token_ms"] <= line["timings_ms"]["total"]
    assert line["timings_ms"]["plan"] > 0 and line["duration_ms"] > 0
    assert datetime.fromisoformat(line["timestamp"]).utcoffset() == timedelta(0)


async def test_response_log_and_trace_have_the_same_id(world: World) -> None:
    answer = await post(world)
    line, (root, *_) = await world.request(), world.spans()
    assert HEX.fullmatch(line["request_id"]) and HEX.fullmatch(line["trace_id"])
    assert answer.headers["x-request-id"] == line["request_id"] == (root.attributes or {})["steer.request_id"]
    assert line["trace_id"] == f"{root.context.trace_id:032x}"


@pytest.mark.parametrize("given", ["order-66", "a/b+c=d:1.2@3_4"])
async def test_a_clients_id_is_kept(world: World, given: str) -> None:
    answer = await post(world, headers={"X-Request-Id": given})
    assert answer.headers.get_list("x-request-id") == [given]
    assert (await world.request())["request_id"] == given


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, 'a"b', "<script>"])
async def test_an_id_that_is_none_is_replaced(world: World, given: str) -> None:
    answer = await post(world, headers={"X-Request-Id": given})
    assert HEX.fullmatch(answer.headers["x-request-id"])
    assert (await world.request())["request_id"] == answer.headers["x-request-id"]


async def test_the_openai_client_finds_the_id_of_an_answer_and_of_an_error(world: World) -> None:
    async with world.prompted.server.client() as client:
        models = await client.models.list()
        with pytest.raises(openai.NotFoundError) as caught:
            await client.models.retrieve("nobody")
    found = [line["request_id"] for line in await world.requests(2)]
    assert found == [models._request_id, caught.value.request_id]


async def test_the_engine_gets_the_id_that_the_client_gets_and_the_trace(world: World) -> None:
    seen: list[Any] = []
    engine = world.prompted.engine
    run = engine.run

    def noting(route: Any, body: Any, plan: Any, request: Any) -> Any:
        seen.append(request.headers)
        return run(route, body, plan, request)

    engine.run = noting  # type: ignore[method-assign]
    try:
        answer = await post(world)
    finally:
        del engine.run
    (headers,), root = seen, await world.span("POST /v1/chat/completions")
    assert headers["x-request-id"] == answer.headers["x-request-id"]
    assert f"{root.context.trace_id:032x}-{root.context.span_id:016x}" in headers["traceparent"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"steering": {"cultures": {"nowhere": 1}}}, 400, "unknown_culture"),
        ({"model": "nobody"}, 404, "refused_by_engine"),
    ],
)
async def test_an_error_is_in_the_line_by_its_code(
    world: World, body: dict[str, Any], status: int, code: str
) -> None:
    await post(world, body=body)
    line = await world.request()
    assert (line["status"], line["error_code"], line["outcome"]) == (status, code, "refused")


async def test_what_the_guards_refuse_has_a_line_too(world: World) -> None:
    async with world.prompted.server.http(key="wrong") as http:
        answer = await http.get("/v1/audit")
    line = await world.request()
    assert (line["status"], line["error_code"]) == (401, "invalid_api_key")
    assert line["request_id"] == answer.headers["x-request-id"]


async def test_a_failure_is_an_error_in_the_log(world: World) -> None:
    world.prompted.engine.is_dead = True
    try:
        await post(world)
    finally:
        world.prompted.engine.is_dead = False
    line = await world.request()
    assert (line["levelname"], line["status"], line["error_code"]) == ("ERROR", 502, "engine_error")


async def test_an_unexpected_exception_has_a_line(world: World) -> None:
    class Broken:
        async def answer(self) -> None:
            raise ZeroDivisionError

        async def stop(self) -> None:
            pass

    engine = world.prompted.engine
    engine.run = lambda *_: Broken()  # type: ignore[assignment,method-assign]
    try:
        await post(world)
    finally:
        del engine.run
    line = await world.request()
    assert (line["status"], line["error_code"], line["outcome"]) == (500, "internal_error", "failed")
    call = await world.span("chat fake")
    assert (call.attributes or {})["error.type"] == "ZeroDivisionError"


async def test_other_lines_of_a_request_have_its_id(world: World) -> None:
    async with world.prompted.server.http() as http:
        answer = await http.post("/v1/adapters/denim/deactivate")
        await http.post("/v1/adapters/denim/rollback")
    lines = [line for line in world.lines() if line["request_id"] == answer.headers["x-request-id"]]
    act = next(line for line in lines if line.get("action") == "deactivate")
    assert (act["adapter"], act["outcome"]) == ("denim", "done")
    assert {"draining denim@1.0.0", "deactivate: done"} <= {line["message"] for line in lines}


async def test_concurrent_requests_keep_their_ids_apart(world: World) -> None:
    world.prompted.engine.token_seconds = 0.01
    names = [f"request-{i}" for i in range(8)]
    answers = await asyncio.gather(*(post(world, headers={"X-Request-Id": name}) for name in names))
    assert [answer.headers["x-request-id"] for answer in answers] == names
    lines = await world.requests(8)
    assert sorted(line["request_id"] for line in lines) == names
    assert len({line["trace_id"] for line in lines}) == 8


async def test_nothing_of_a_prompt_an_answer_or_a_key_is_in_a_span_or_a_line(world: World) -> None:
    world.prompted.upstream.behaviours = [
        lambda exchange: exchange.reply(400, {"error": {"message": SECRET}})
    ]
    key = await world.prompted.key()
    await world.request()
    world.forget()
    secrets = {
        "messages": [
            {"role": "system", "content": SECRET},
            {"role": "user", "content": f"{SECRET} {QUESTION}"},
        ],
        "stop": [SECRET],
        "user": SECRET,
        "temperature": SECRET,
        "metadata": {"a": SECRET},
    }
    drafts = {"cultures": {"amber": 0.2}, "method": "diffpo", "options": {"draft": f"{SECRET} w57."}}
    bodies: list[dict[str, Any]] = [
        {"steering": CULTURES},
        {"steering": CULTURES, "stream": True},
        {"steering": {"cultures": {SECRET: 1}}},
        {"steering": {"method": "align_pro"}},
        {"steering": {**CULTURES, "method": "best_of_n", "reward_heads": ["warm"]}, "temperature": 0.7},
        {"steering": drafts, "temperature": 0.7, "stop": None},
        {"model": "up/big"},
        {"messages": SECRET},
    ]
    async with world.prompted.server.http(key=key) as http:
        answers = [
            await http.post("/v1/chat/completions", json={"model": "fake", **secrets, **body})
            for body in bodies
        ]
    async with world.prompted.server.http(key=SECRET) as http:
        await http.post("/v1/rewards", json={"messages": secrets["messages"], "answers": [SECRET]})
    await world.requests(len(bodies) + 1)
    left = world.log.getvalue() + "".join(span.to_json() for span in world.spans())
    assert [answer.status_code for answer in answers] == [200, 200, 400, 200, 200, 200, 400, 200]
    for hidden in (SECRET, key, key[-12:], KEY, QUESTION, "w01"):
        assert hidden not in left
    words = [word for answer in answers[:2] for word in re.findall(r"w\d\d", answer.text)]
    assert words and not any(word in left for word in words)


async def test_in_a_terminal_a_line_is_words_and_no_value_breaks_it() -> None:
    stream = io.StringIO()
    with logging_into(stream, as_json=False):
        logging.getLogger("steer_server.requests").info(
            "GET /x 200", extra={"route": "/x", "adapters": ["a@1"], "status": 200, "note": "two\nlines"}
        )
    (line,) = stream.getvalue().splitlines()
    assert line.endswith(
        'INFO steer_server.requests: GET /x 200 route=/x adapters=["a@1"] status=200 note="two\\nlines"'
    )


async def test_a_path_cannot_forge_a_line_nor_speak_to_the_terminal(world: World) -> None:
    stream = io.StringIO()
    with logging_into(stream, as_json=False):
        async with world.prompted.server.http() as http:
            await http.get("/nope%0a2026-01-01 INFO steer_server.catalogue: quarantine: done%1b[2J")
        await until(lambda: "404" in stream.getvalue())
    (line,) = stream.getvalue().splitlines()
    assert "GET /nope\\n2026" in line and "done\\x1b[2J 404" in line and line.isprintable()


async def test_a_line_has_no_field_of_the_record_itself() -> None:
    stream = io.StringIO()
    with logging_into(stream, as_json=True):
        logging.getLogger("steer_server").info("said")
    assert json.loads(stream.getvalue()).keys() == {"levelname", "name", "message", "timestamp"}
