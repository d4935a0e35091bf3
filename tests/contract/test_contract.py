"""The contract: the same tests on FakeEngine and on vLLM, with the official client, over HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from tests.support.servers import NUM_SLOTS, Running

PROMPT = "How important is religion in your life?"


async def ask(server: Running, steering: Any = None, *, model: str | None = None, **options: Any) -> Any:
    """A greedy answer; the client's raw response is in `.raw`."""
    extra = {} if steering is None else {"extra_body": {"steering": steering}}
    async with server.client() as client:
        raw = await client.chat.completions.with_raw_response.create(
            model=model or server.model,
            messages=[{"role": "user", "content": PROMPT}],
            **{"temperature": 0, "max_tokens": 12, **extra, **options},
        )
    answer = raw.parse()
    object.__setattr__(answer, "raw", raw)
    return answer


async def text(server: Running, steering: Any = None, **options: Any) -> str:
    answer = await ask(server, steering, **options)
    return str(answer.choices[0].message.content)


async def stream(server: Running, steering: Any = None, **options: Any) -> tuple[str, list[Any]]:
    extra = {} if steering is None else {"extra_body": {"steering": steering}}
    async with server.client() as client:
        events = await client.chat.completions.create(
            model=server.model,
            messages=[{"role": "user", "content": PROMPT}],
            temperature=0,
            stream=True,
            **{"max_tokens": 12, **extra, **options},
        )
        chunks = [chunk async for chunk in events]
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices), chunks


async def test_the_base_model_is_unchanged_by_none_and_by_strength_zero(server: Running) -> None:
    plain = await text(server)
    assert await text(server, {"method": "none"}) == plain
    assert await text(server, {"cultures": {server.cultures[0]: 1.0}, "strength": 0}) == plain


async def test_every_culture_steers_and_the_answer_says_which(server: Running) -> None:
    plain = await text(server)
    for culture in server.cultures:
        answer = await ask(server, {"cultures": {culture: 1.0}})
        assert answer.choices[0].message.content != plain
        assert answer.steering["applied"] == [{"adapter": f"{culture}@1.0.0", "weight": 1.0}]
        assert answer.steering["method"] == "adapters"
        assert {"plan", "queue", "total"} <= answer.steering["timings_ms"].keys()


async def test_plan_header_body_and_plan_route_agree(server: Running) -> None:
    steering = {"cultures": {server.cultures[0]: 0.7, server.cultures[1]: 0.3}, "strength": 0.9}
    answer = await ask(server, steering)
    async with server.http() as http:
        planned = (await http.post("/v1/steering/plan", json={"steering": steering})).json()
    assert answer.raw.headers["X-Steering-Plan"] == answer.steering["plan"] == planned["plan"]
    assert answer.steering["applied"] == planned["applied"]


async def test_the_order_of_a_blend_is_irrelevant(server: Running) -> None:
    first, second = server.cultures[:2]
    forwards = await ask(server, {"cultures": {first: 0.6, second: 0.4}})
    backwards = await ask(server, {"cultures": {second: 0.4, first: 0.6}})
    assert forwards.steering["plan"] == backwards.steering["plan"]
    assert forwards.choices[0].message == backwards.choices[0].message


async def test_weight_and_strength_are_one_number(server: Running) -> None:
    culture = server.cultures[0]
    half = await ask(server, {"cultures": {culture: 0.5}})
    scaled = await ask(server, {"cultures": {culture: 1.0}, "strength": 0.5})
    assert half.steering["plan"] == scaled.steering["plan"]


async def test_a_stream_equals_the_answer_and_ends_with_what_was_applied(server: Running) -> None:
    steering = {"cultures": {server.cultures[0]: 1.0}}
    streamed, chunks = await stream(server, steering)
    answer = await ask(server, steering)
    assert streamed == answer.choices[0].message.content
    assert chunks[-1].choices == [] and chunks[-1].steering["plan"] == answer.steering["plan"]
    assert chunks[-1].id == chunks[0].id
    assert all(chunk.choices for chunk in chunks[:-1])


async def test_an_unsteered_answer_is_plain_openai(server: Running) -> None:
    answer = await ask(server)
    assert not hasattr(answer, "steering") and "X-Steering-Plan" in answer.raw.headers
    _, chunks = await stream(server)
    assert all(chunk.choices for chunk in chunks)


async def test_body_header_and_model_name_mean_the_same(server: Running) -> None:
    culture = server.cultures[0]
    steering = {"cultures": {culture: 1.0}}
    body = await ask(server, steering)
    header = await ask(server, extra_headers={"X-Steering": json.dumps(steering)})
    named = await ask(server, model=f"{server.model}@{culture}")
    plans = {answer.steering["plan"] for answer in (body, header, named)}
    texts = {answer.choices[0].message.content for answer in (body, header, named)}
    assert len(plans) == len(texts) == 1


async def test_models_lists_the_base_each_culture_and_presets_with_their_parent(server: Running) -> None:
    async with server.client() as client:
        listed = [model async for model in client.models.list()]
        parents = {model.id: model.parent for model in listed}  # type: ignore[attr-defined]
        assert parents[server.model] is None
        assert all(parents[f"{server.model}@{culture}"] == server.model for culture in server.cultures)
        assert parents["gentle"] == server.model
        one = await client.models.retrieve(f"{server.model}@{server.cultures[0]}")
        assert one.id == f"{server.model}@{server.cultures[0]}"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("gpt-5")


async def test_a_preset_is_a_model(server: Running) -> None:
    answer = await ask(server, model="gentle")
    spelt_out = await ask(server, {"values": {"helpful": 1, "harmless": 1}, "strength": 0.5})
    assert answer.steering["plan"] == spelt_out.steering["plan"]


async def test_floors_are_applied_to_values_and_reported(server: Running) -> None:
    answer = await ask(server, {"values": {"helpful": 1.0}})
    weighed = {axis: share for axis, share in answer.steering["values"].items() if share}
    assert weighed == {"helpful": 0.8, "harmless": 0.2}
    assert answer.choices[0].message.content != await text(server)


async def test_different_preference_vectors_are_different_plans(server: Running) -> None:
    plans = [
        (await ask(server, {"values": {"helpful": share, "harmless": 1 - share}})).steering["plan"]
        for share in (0.2, 0.5, 0.8)
    ]
    assert len(set(plans)) == 3


async def test_get_steering_says_what_can_be_asked_for(server: Running) -> None:
    async with server.http() as http:
        body = (await http.get("/v1/steering")).json()
    assert {"cultures", "values", "reward_heads", "presets", "methods"} <= body.keys()
    assert {v["id"] for v in body["values"]} >= {"helpful", "harmless"}
    assert body["policy"]["value_floors"] == {"harmless": 0.2}
    assert all({"id", "description", "countries", "adapter"} <= c.keys() for c in body["cultures"])


async def test_a_broken_adapter_is_listed_with_its_reason_and_cannot_be_used(server: Running) -> None:
    async with server.http() as http:
        states = {a["name"]: a for a in (await http.get("/v1/adapters")).json()["data"]}
    assert states["broken"]["state"] == "quarantined" and states["broken"]["reason"] == "size_mismatch"
    assert states[server.cultures[0]]["state"] == "active"
    with pytest.raises(openai.BadRequestError):
        await ask(server, {"cultures": {"broken": 1.0}})


async def test_completions_are_steered_too(server: Running) -> None:
    async with server.client() as client:
        request: dict[str, Any] = {
            "model": server.model,
            "prompt": "Religion is",
            "max_tokens": 12,
            "temperature": 0,
        }
        plain = await client.completions.create(**request)
        steered = await client.completions.create(
            **request, extra_body={"steering": {"cultures": {server.cultures[0]: 1.0}}}
        )
        events = await client.completions.create(
            **request, stream=True, extra_body={"steering": {"cultures": {server.cultures[0]: 1.0}}}
        )
        chunks = [chunk async for chunk in events]
    assert plain.choices[0].text != steered.choices[0].text
    assert "".join(c.choices[0].text for c in chunks if c.choices) == steered.choices[0].text
    assert chunks[-1].steering == {  # type: ignore[attr-defined]
        **steered.steering,
        "timings_ms": chunks[-1].steering["timings_ms"],  # type: ignore[attr-defined]
    }


async def test_several_answers_share_one_plan(server: Running) -> None:
    answer = await ask(server, {"cultures": {server.cultures[0]: 1.0}}, n=3, temperature=1)
    assert len(answer.choices) == 3 and answer.steering["plan"]


async def test_more_cultures_than_slots_take_turns_and_every_answer_is_right(exact_server: Running) -> None:
    """Each of many concurrent requests, over more adapters than slots, equals what it gives alone."""
    server = exact_server
    assert len(server.cultures) > NUM_SLOTS
    alone = {culture: await text(server, {"cultures": {culture: 1.0}}) for culture in server.cultures}
    order = server.cultures * 3
    together = await asyncio.gather(*(text(server, {"cultures": {culture: 1.0}}) for culture in order))
    assert together == [alone[culture] for culture in order]


async def test_a_blend_of_more_adapters_than_slots_is_refused(server: Running) -> None:
    with pytest.raises(openai.BadRequestError, match="holds 4 at once"):
        await ask(server, {"cultures": dict.fromkeys(server.cultures[: NUM_SLOTS + 1], 0.2)})


async def test_a_client_that_hangs_up_gives_its_slots_back(server: Running) -> None:
    """More abandoned streams than slots, each of its own adapter: none may keep its slot."""
    for culture in server.cultures:
        async with server.client() as client:
            events = await client.chat.completions.create(
                model=server.model,
                messages=[{"role": "user", "content": PROMPT}],
                stream=True,
                max_tokens=1000,
                temperature=0,
                extra_body={"steering": {"cultures": {culture: 1.0}}, "ignore_eos": True},
            )
            await anext(aiter(events))
            await events.close()
    assert await asyncio.wait_for(text(server, {"cultures": {server.cultures[0]: 1.0}}), 60)


CULTURE = "{culture}"
"""Stands for a loaded culture in the wrong requests below."""

WRONG: dict[str, tuple[Any, int, str | None]] = {
    "steering is a list": ({"steering": []}, 400, "steering"),
    "steering is null": ({"steering": None}, 400, "steering"),
    "steering is empty": ({"steering": {}}, 400, "steering"),
    "a misspelt key": ({"steering": {"culturs": {CULTURE: 1}}}, 400, "steering.culturs"),
    "an unknown culture": ({"steering": {"cultures": {"atlantis": 1}}}, 400, "steering.cultures.atlantis"),
    "an unknown axis": ({"steering": {"values": {"brave": 1}}}, 400, "steering.values.brave"),
    "empty cultures": ({"steering": {"cultures": {}}}, 400, "steering.cultures"),
    "empty values": ({"steering": {"values": {}}}, 400, "steering.values"),
    "cultures as a list": ({"steering": {"cultures": [CULTURE]}}, 400, "steering.cultures"),
    "a weight as text": ({"steering": {"cultures": {CULTURE: "1"}}}, 400, "steering.cultures." + CULTURE),
    "a weight as a boolean": (
        {"steering": {"cultures": {CULTURE: True}}},
        400,
        "steering.cultures." + CULTURE,
    ),
    "a NaN weight": (
        {"steering": {"cultures": {CULTURE: float("nan")}}},
        400,
        "steering.cultures." + CULTURE,
    ),
    "an infinite weight": (
        {"steering": {"cultures": {CULTURE: float("inf")}}},
        400,
        "steering.cultures." + CULTURE,
    ),
    "a weight above 1": ({"steering": {"cultures": {CULTURE: 1.01}}}, 400, "steering.cultures." + CULTURE),
    "a negative weight": ({"steering": {"cultures": {CULTURE: -0.5}}}, 400, "steering.cultures." + CULTURE),
    "weights that sum to 0": ({"steering": {"cultures": {CULTURE: 0}}}, 400, "steering.cultures"),
    "values that sum to 0": ({"steering": {"values": {"helpful": 0}}}, 400, "steering.values"),
    "a negative value": ({"steering": {"values": {"helpful": -1}}}, 400, "steering.values.helpful"),
    "a huge strength": ({"steering": {"cultures": {CULTURE: 1}, "strength": 1e12}}, 400, "steering.strength"),
    "a negative strength": (
        {"steering": {"cultures": {CULTURE: 1}, "strength": -1}},
        400,
        "steering.strength",
    ),
    "strength as text": ({"steering": {"cultures": {CULTURE: 1}, "strength": "1"}}, 400, "steering.strength"),
    "an unknown method": (
        {"steering": {"cultures": {CULTURE: 1}, "method": "magic"}},
        400,
        "steering.method",
    ),
    "cultures of a model that stays as it is": (
        {"steering": {"cultures": {CULTURE: 1}, "method": "align_pro"}},
        400,
        "steering.cultures",
    ),
    "method none with cultures": (
        {"steering": {"cultures": {CULTURE: 1}, "method": "none"}},
        400,
        "steering.method",
    ),
    "an unknown reward head": (
        {"steering": {"cultures": {CULTURE: 1}, "reward_heads": ["kind"]}},
        400,
        "steering.reward_heads.0",
    ),
    "an option the method has not": (
        {"steering": {"cultures": {CULTURE: 1}, "options": {"n": 4}}},
        400,
        "steering.options.n",
    ),
    "a denied adapter": ({"steering": {"cultures": {"forbidden": 1}}}, 403, "steering.cultures.forbidden"),
    "body and model name": (
        {"model": "{model}@" + CULTURE, "steering": {"cultures": {CULTURE: 1}}},
        400,
        "steering",
    ),
    "an unknown culture in the model name": ({"model": "{model}@atlantis"}, 404, "model"),
    "an unknown model": ({"model": "gpt-5"}, 404, "model"),
    "an unknown model with steering": (
        {"model": "gpt-5", "steering": {"cultures": {CULTURE: 1}}},
        404,
        "model",
    ),
    "no messages": ({"messages": None, "steering": {"cultures": {CULTURE: 1}}}, 400, None),
    "a body that is a list": ([1, 2], 400, None),
}


def filled(document: Any, server: Running) -> Any:
    """Replaces the stand-ins; NaN and infinity stay as Python's JSON writes them."""
    written = json.dumps(document).replace(CULTURE, server.cultures[0])
    return written.replace("{model}", server.model)


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_request_gets_its_4xx_and_the_field(server: Running, name: str) -> None:
    document, status, param = WRONG[name]
    if isinstance(document, dict):
        messages = [{"role": "user", "content": PROMPT}]
        document = {"model": server.model, "messages": messages, "max_tokens": 4, **document}
    async with server.http() as http:
        response = await http.post(
            "/v1/chat/completions",
            content=filled(document, server),
            headers={"Content-Type": "application/json"},
        )
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["message"] and error["type"] and "code" in error
    if param is not None:
        assert error["param"] == filled(param, server).strip('"')


async def test_two_sources_at_once_are_refused(server: Running) -> None:
    steering = {"cultures": {server.cultures[0]: 1.0}}
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(server, steering, extra_headers={"X-Steering": json.dumps(steering)})
    assert caught.value.code == "two_sources"


@pytest.mark.parametrize("header", ["", "{", "[]", '{"cultures": {}}', '{"culture": {"a": 1}}'])
async def test_a_wrong_header_is_refused(server: Running, header: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(server, extra_headers={"X-Steering": header})
    assert str(caught.value.param).startswith("X-Steering")


async def test_a_body_that_is_not_json_is_refused(server: Running) -> None:
    async with server.http() as http:
        for content_type, content in (("application/json", "{"), ("text/plain", "{}")):
            response = await http.post(
                "/v1/chat/completions", content=content, headers={"Content-Type": content_type}
            )
            assert response.status_code == 400 and response.json()["error"]["code"] == "invalid_body"


@pytest.mark.parametrize(
    "path", ["/v1/responses", "/v1/messages", "/v1/embeddings", "/tokenize", "/invocations"]
)
@pytest.mark.parametrize("where", ["body", "escaped", "utf-16", "header"])
async def test_steering_is_refused_where_it_would_be_ignored(server: Running, path: str, where: str) -> None:
    steering = {"cultures": {server.cultures[0]: 1.0}}
    body = {"model": server.model, "input": "hi", "prompt": "hi"}
    headers = {"Content-Type": "application/json"}
    if where == "header":
        headers["X-Steering"] = json.dumps(steering)
    content = json.dumps({**body, "steering": steering} if where != "header" else body)
    if where == "escaped":
        content = content.replace('"steering"', '"st\\u0065ering"')
    encoded = content.encode("utf-16" if where == "utf-16" else "utf-8")
    async with server.http() as http:
        response = await http.post(path, content=encoded, headers=headers)
    assert response.status_code == 400 and response.json()["error"]["code"] == "steering_unsupported"


async def test_unknown_fields_outside_steering_are_ignored(server: Running) -> None:
    answer = await ask(
        server, extra_body={"steering": {"cultures": {server.cultures[0]: 1.0}}, "no_stop_trim": True}
    )
    assert answer.steering["applied"]


async def test_the_server_still_answers_and_is_ready_after_all_this(server: Running) -> None:
    async with server.http() as http:
        ready = await http.get("/ready")
    assert ready.status_code == 200 and ready.json()["refused"] == ["broken"]
    assert await text(server) == await text(server)
