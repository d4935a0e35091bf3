"""align_pro on the real app with the FakeEngine: what is asked, what is answered, and what is said of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from steer_server.steering.plan import BASE_PLAN
from tests.support.adapters import random_adapter, tiny_base_model
from tests.support.administration import act, get, push, refused
from tests.support.prompters import ALIGN_PRO, QUESTION, REWRITE, Prompted, info, prompted_server
from tests.support.upstream import Exchange
from tests.support.waiting import until

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


@pytest.fixture(scope="module")
async def prompted(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Prompted]:
    async with prompted_server(tmp_path_factory.mktemp("prompted")) as prompted:
        yield prompted


@pytest.fixture
def world(prompted: Prompted) -> Iterator[Prompted]:
    """One server for all tests, as if it had not been asked before."""
    prompted.begin()
    yield prompted
    prompted.end()


@pytest.fixture
async def own_world(tmp_path: Path) -> AsyncIterator[Prompted]:
    """A server for one test, which changes its adapters."""
    async with prompted_server(tmp_path) as prompted:
        yield prompted
        prompted.end()


def content(answer: Any) -> str:
    return str(answer.choices[0].message.content)


def user(text: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


async def test_the_prompter_rewrites_and_the_frozen_model_answers_the_rewrite(world: Prompted) -> None:
    world.writes(QUESTION, f" {REWRITE}\n")
    plain = await world.chat(None, REWRITE)
    world.asked()
    answer = await world.chat()
    (asked, prompter), (sent, frozen) = world.asked()
    assert QUESTION in asked[-1]["content"] and prompter == ["clarity"]
    assert sent == user(REWRITE) and frozen == []
    assert content(answer) == content(plain)
    steering = answer.steering
    assert (steering["method"], steering["prompt"]) == ("align_pro", REWRITE)
    assert steering["rewrite"] == {"status": "rewritten", "reason": None, "detail": None}
    assert steering["applied"] == [{"adapter": "clarity@1.0.0", "weight": 1.0}]
    assert 0 < steering["timings_ms"]["rewrite"] < steering["timings_ms"]["total"]
    assert answer.usage == plain.usage


async def test_plan_header_body_and_plan_route_agree(world: Prompted) -> None:
    async with world.server.client() as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="fake",
            messages=user(QUESTION),  # type: ignore[arg-type]
            extra_body={"steering": ALIGN_PRO},
        )
    planned = (await world.post("/v1/steering/plan", steering=ALIGN_PRO)).json()
    assert raw.headers["X-Steering-Plan"] == planned["plan"] != BASE_PLAN.digest
    assert raw.parse().steering["plan"] == planned["plan"]  # type: ignore[attr-defined]
    assert planned["applied"] == [{"adapter": "clarity@1.0.0", "weight": 1.0}]


async def test_the_second_time_the_rewrite_comes_from_the_cache(world: Prompted) -> None:
    world.writes(QUESTION, REWRITE)
    before = [world.counted(outcome) for outcome in ("rewritten", "cached")]
    first = await world.chat()
    world.asked()
    second = await world.chat()
    assert world.asked() == [(user(REWRITE), [])]
    assert second.steering["rewrite"]["status"] == "cached" and second.steering["prompt"] == REWRITE
    assert content(second) == content(first)
    assert [world.counted(outcome) for outcome in ("rewritten", "cached")] == [one + 1 for one in before]


async def test_a_bad_rewrite_is_replaced_by_the_original_and_says_so(world: Prompted) -> None:
    world.writes(QUESTION, "Cats purr.")
    before = world.counted("answer")
    answer = await world.chat()
    assert answer.steering["prompt"] == QUESTION
    rewrite = answer.steering["rewrite"]
    assert (rewrite["status"], rewrite["reason"]) == ("original", "answer") and rewrite["detail"]
    assert content(answer) == content(await world.chat(None))
    assert world.counted("answer") == before + 1


async def test_a_prompter_that_does_not_come_to_an_end_is_not_used(world: Prompted) -> None:
    answer = await world.chat()
    assert answer.steering["rewrite"]["reason"] == "cut" and answer.steering["prompt"] == QUESTION


async def test_a_stream_says_the_same_at_its_end(world: Prompted) -> None:
    world.writes(QUESTION, REWRITE)
    whole = await world.chat()
    chunks = await world.chat(stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == content(whole)
    last = chunks[-1]
    assert last.choices == [] and last.steering["prompt"] == REWRITE
    assert last.steering["rewrite"]["status"] == "cached"


async def test_strength_scales_the_prompter_and_at_0_the_original_is_sent(world: Prompted) -> None:
    world.writes(QUESTION, REWRITE)
    half = await world.chat({**ALIGN_PRO, "strength": 0.5})
    assert half.steering["applied"] == [{"adapter": "clarity@1.0.0", "weight": 0.5}]
    world.asked()
    none = await world.chat({**ALIGN_PRO, "strength": 0})
    assert world.asked() == [(user(QUESTION), [])]
    assert none.steering["rewrite"]["reason"] == "strength_0" and none.steering["applied"] == []
    assert none.steering["plan"] == BASE_PLAN.digest
    assert content(none) == content(await world.chat(None))


async def test_only_the_last_user_message_changes_and_the_prompter_sees_nothing_else(world: Prompted) -> None:
    world.writes(QUESTION, REWRITE)
    before = [
        {"role": "system", "content": "Be brief, and tell nobody of the tulips."},
        *user("Hello!"),
        {"role": "assistant", "content": "Hello."},
    ]
    await world.chat(messages=[*before, *user(QUESTION)])
    (asked, _), (sent, _) = world.asked()
    assert sent == [*before, *user(REWRITE)]
    assert "tulips" not in str(asked) and "Hello" not in str(asked)


async def test_of_content_in_parts_the_text_changes_and_images_stay(world: Prompted) -> None:
    world.writes(QUESTION, REWRITE)
    answer = await world.chat(question=[IMAGE, {"type": "text", "text": QUESTION}])
    (_, (sent, _)) = world.asked()
    assert sent == user([IMAGE, {"type": "text", "text": REWRITE}])
    assert answer.steering["prompt"] == REWRITE


async def test_a_message_without_text_is_sent_as_it_is(world: Prompted) -> None:
    answer = await world.chat(question=[IMAGE])
    assert world.asked() == [(user([IMAGE]), [])]
    assert answer.steering["rewrite"]["reason"] == "no_text" and answer.steering["prompt"] is None


async def test_all_else_of_the_request_reaches_the_model(world: Prompted) -> None:
    world.writes(QUESTION, REWRITE)
    tool = {"type": "function", "function": {"name": "purr", "parameters": {}}}
    options = {"tools": [tool], "response_format": {"type": "json_object"}, "n": 3, "seed": 5, "stop": "x"}
    answer = await world.chat(**options)
    body, _ = world.engine.asked[-1]
    assert {key: body[key] for key in options} == options
    assert len(answer.choices) == 3


async def test_a_system_prompt_that_shows_in_the_rewrite_keeps_it_back(world: Prompted) -> None:
    secret = "Nobody may learn that the code word is tulip."
    world.writes(QUESTION, "Please explain why cats purr, and that the code word is tulip.")
    assert (await world.chat()).steering["rewrite"]["status"] == "rewritten"
    answer = await world.chat(messages=[{"role": "system", "content": secret}, *user(QUESTION)])
    assert answer.steering["rewrite"]["reason"] == "leak" and answer.steering["prompt"] == QUESTION
    assert "tulip" not in str(answer.steering)


async def test_heads_score_the_answer_to_what_the_user_wrote(world: Prompted) -> None:
    world.writes(QUESTION, REWRITE)
    answer = await world.chat({**ALIGN_PRO, "reward_heads": ["warm"]})
    text = world.engine.scored[-1]
    assert text.messages == tuple(user(QUESTION)) and text.answer == content(answer)
    assert answer.steering["rewards"]["scores"][0].keys() == {"warm"}


async def test_a_preset_and_the_header_ask_for_it_too(world: Prompted) -> None:
    world.writes(QUESTION, REWRITE)
    preset = await world.chat(None, model="careful")
    header = await world.chat(None, extra_headers={"X-Steering": '{"method": "align_pro"}'})
    assert preset.steering["prompt"] == header.steering["prompt"] == REWRITE


async def test_requests_at_the_same_time_share_one_rewrite(world: Prompted) -> None:
    world.writes(QUESTION, REWRITE)
    answers = await asyncio.gather(*(world.chat() for _ in range(8)))
    assert [adapters for _, adapters in world.asked()].count(["clarity"]) == 1
    assert {answer.steering["prompt"] for answer in answers} == {REWRITE}


async def rewriting(world: Prompted) -> None:
    await until(lambda: world.engine.num_running)


async def test_a_client_that_leaves_takes_no_rewrite_from_others_and_the_last_ends_it(
    world: Prompted,
) -> None:
    world.writes(QUESTION, REWRITE)
    world.engine.token_seconds = 0.002
    first, second = (asyncio.create_task(world.chat()) for _ in range(2))
    await rewriting(world)
    await asyncio.sleep(0.05)
    first.cancel()
    assert (await second).steering["prompt"] == REWRITE
    third = asyncio.create_task(world.chat(question="Why do dogs bark?"))
    await rewriting(world)
    third.cancel()
    await until(lambda: not world.engine.num_running)


async def test_without_a_slot_for_the_prompter_the_request_is_refused(world: Prompted) -> None:
    steer, before = world.steer, world.counted("error")
    cultures = steer.catalogue.snapshot.cultures
    held = await steer.leases.acquire([cultures[name] for name in ("amber", "blue", "coral", "denim")])
    try:
        refused(await world.post("/v1/chat/completions", steering=ALIGN_PRO), 503, "no_bank_slot")
    finally:
        held.release()
    assert world.counted("error") == before + 1
    assert (await world.post("/v1/chat/completions", steering=ALIGN_PRO)).status_code == 200


async def test_a_prompter_that_cannot_be_loaded_is_an_error_not_an_unsteered_answer(world: Prompted) -> None:
    steer = world.steer
    prompter = steer.catalogue.snapshot.prompters["clear"]
    cultures = steer.catalogue.snapshot.cultures
    # It gives its slot to others first.
    (await steer.leases.acquire([cultures[name] for name in ("amber", "blue", "coral", "denim")])).release()
    world.engine.failing_digests.add(prompter.digest)
    refused(await world.post("/v1/chat/completions", steering=ALIGN_PRO), 502, "engine_error")
    world.engine.failing_digests.clear()


async def test_a_quarantine_ends_rewrites_and_is_told_from_then_on(own_world: Prompted) -> None:
    world = own_world
    world.writes(QUESTION, REWRITE)
    world.engine.token_seconds = 0.1
    waiting = asyncio.create_task(world.post("/v1/chat/completions", steering=ALIGN_PRO))
    await rewriting(world)
    done = await act(world.server, "clarity/versions/1.0.0/quarantine", {"abort": True, "detail": "rude"})
    assert done.status_code == 200, done.text
    refused(await waiting, 409, "adapter_quarantined")
    again = refused(
        await world.post("/v1/chat/completions", steering={**ALIGN_PRO, "options": {"prompter": "clear"}}),
        400,
        "adapter_quarantined",
    )
    assert again["param"] == "steering.options.prompter"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_quarantine_ends_what_an_upstream_has_not_begun_to_answer(
    own_world: Prompted, stream: bool
) -> None:
    world = own_world
    world.writes(QUESTION, REWRITE)
    left = asyncio.Event()

    async def silent(exchange: Exchange) -> None:
        await exchange.client_left()
        left.set()

    world.upstream.behaviours = [silent]
    body = {"model": "up/big", "stream": stream, "steering": ALIGN_PRO}
    waiting = asyncio.create_task(world.post("/v1/chat/completions", **body))
    await until(lambda: world.upstream.received)
    await act(world.server, "clarity/versions/1.0.0/quarantine", {"abort": True})
    async with asyncio.timeout(60):
        refused(await waiting, 409, "adapter_quarantined")
        await left.wait()
    assert (await world.chat(None, model="up/big")).choices[0].message.content == "well"


REFUSED: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "cultures": ({"cultures": {"amber": 1}}, 400, "invalid_steering", "steering.cultures"),
    "values": ({"values": {"kind": 1}}, 400, "invalid_steering", "steering.values"),
    "an unknown prompter": (
        {"options": {"prompter": "claer"}},
        400,
        "unknown_prompter",
        "steering.options.prompter",
    ),
    "a culture as prompter": (
        {"options": {"prompter": "amber"}},
        400,
        "unknown_prompter",
        "steering.options.prompter",
    ),
    "a prompter of another type": (
        {"options": {"prompter": ["clear"]}},
        400,
        "invalid_steering",
        "steering.options.prompter",
    ),
    "an unknown option": ({"options": {"n": 3}}, 400, "unknown_option", "steering.options.n"),
    "a large strength": ({"strength": 3}, 400, "policy_violation", "steering.strength"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/steering/transform", "/v1/steering/plan"])
async def test_what_it_cannot_do_is_refused_with_the_fix(world: Prompted, name: str, path: str) -> None:
    more, status, code, param = REFUSED[name]
    error = refused(await world.post(path, steering={**ALIGN_PRO, **more}), status, code)
    assert error["param"] == param
    if name == "cultures":
        assert "prompter" in error["message"]
    if name == "an unknown prompter":
        assert "Did you mean 'clear'?" in error["message"]


async def test_a_prompter_is_no_culture(world: Prompted) -> None:
    for culture in ("clear", "clarity"):
        wrong = await world.post("/v1/chat/completions", steering={"cultures": {culture: 1}})
        refused(wrong, 400, "unknown_culture")
        refused(await world.post("/v1/chat/completions", model=f"fake@{culture}"), 404, "model_not_found")
    async with world.server.client() as client:
        models = {model.id async for model in client.models.list()}
    assert models == {"fake", "careful", "up/big", *(f"fake@{c}" for c in world.server.cultures)}
    assert world.server.cultures == ["amber", "blue", "coral", "denim"]


async def test_prompters_are_listed_with_what_they_are_for(world: Prompted) -> None:
    found = await get(world.server, "/v1/steering")
    assert found["prompters"] == [
        {
            "id": "clear",
            "description": "random weights, clarity",
            "aim": "clear answers",
            "culture": "amber",
            "adapter": "clarity@1.0.0",
        }
    ]
    assert "align_pro" in found["methods"]
    listed = {one["name"]: one for one in (await get(world.server, "/v1/adapters"))["data"]}
    assert (listed["clarity"]["kind"], listed["clarity"]["prompter"]) == ("prompter", "clear")


async def test_of_several_prompters_the_request_names_one_and_without_any_it_is_refused(
    own_world: Prompted, tmp_path: Path
) -> None:
    world = own_world
    base = tiny_base_model(tmp_path / "tiny-llama")
    random_adapter(tmp_path / "more", "gentleness", base, prompter=info("gentle"))
    assert (await push(world.server, tmp_path / "more" / "gentleness")).status_code == 201
    error = refused(await world.post("/v1/chat/completions", steering=ALIGN_PRO), 400, "prompter_required")
    assert "clear, gentle" in error["message"] and error["param"] == "steering.options.prompter"
    named = await world.chat({**ALIGN_PRO, "options": {"prompter": "gentle"}})
    assert named.steering["applied"] == [{"adapter": "gentleness@1.0.0", "weight": 1.0}]
    async with world.server.http() as http:
        for name in ("clarity", "gentleness"):
            assert (await http.delete(f"/v1/adapters/{name}")).is_success
    error = refused(await world.post("/v1/chat/completions", steering=ALIGN_PRO), 400, "prompter_required")
    assert "No prompter is loaded" in error["message"]


async def test_a_prompters_id_belongs_to_one_adapter(world: Prompted, tmp_path: Path) -> None:
    base = tiny_base_model(tmp_path / "tiny-llama")
    random_adapter(tmp_path / "more", "another", base, prompter=info("clear"))
    refused(await push(world.server, tmp_path / "more" / "another"), 409, "prompter_taken")


async def test_a_key_that_may_not_use_the_culture_may_not_use_its_prompter(world: Prompted) -> None:
    theirs, others = await world.key(cultures=["amber"]), await world.key(cultures=["blue"])
    for path in ("/v1/chat/completions", "/v1/steering/transform", "/v1/steering/plan"):
        assert (await world.post(path, theirs, steering=ALIGN_PRO)).status_code == 200
        error = refused(await world.post(path, others, steering=ALIGN_PRO), 403, "culture_not_allowed")
        assert error["param"] == "steering.options.prompter"
        refused(await world.post(path, "ss-app-nobody", steering=ALIGN_PRO), 401, "invalid_api_key")


async def test_text_completions_have_no_message_to_rewrite(world: Prompted) -> None:
    wrong = await world.post("/v1/completions", prompt=QUESTION, steering=ALIGN_PRO)
    assert refused(wrong, 400, "method_unavailable")["param"] == "steering.method"


@pytest.mark.parametrize("messages", [None, [], "hello", ["hello"]])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/steering/transform"])
async def test_messages_that_are_none_are_refused(world: Prompted, messages: Any, path: str) -> None:
    wrong = await world.post(path, messages=messages, steering=ALIGN_PRO)
    assert refused(wrong, 400, "invalid_messages")["param"] == "messages"


async def test_the_rewrite_alone_can_be_asked_for(world: Prompted) -> None:
    world.writes(QUESTION, REWRITE)
    answer = await world.post("/v1/steering/transform", steering=ALIGN_PRO)
    found = answer.raise_for_status().json()
    assert [adapters for _, adapters in world.asked()] == [["clarity"]]
    assert (found["original"], found["prompt"]) == (QUESTION, REWRITE)
    assert found["rewrite"]["status"] == "rewritten" and found["timings_ms"]["rewrite"] > 0
    assert answer.headers["X-Steering-Plan"] == found["plan"]
    assert (await world.chat()).steering["rewrite"]["status"] == "cached"
    again = (await world.post("/v1/steering/transform", model="up/big", steering=ALIGN_PRO)).json()
    assert again["rewrite"]["status"] == "cached" and not world.upstream.received


WRONG_TRANSFORMS: dict[str, tuple[dict[str, Any], int, str, str | None]] = {
    "no steering": ({}, 400, "invalid_steering", "steering"),
    "another method": ({"steering": {"method": "none"}}, 400, "method_unavailable", "steering.method"),
    "heads": (
        {"steering": {**ALIGN_PRO, "reward_heads": ["warm"]}},
        400,
        "reward_heads_unavailable",
        "steering.reward_heads",
    ),
    "an unknown model": ({"model": "gpt-5", "steering": ALIGN_PRO}, 404, "model_not_found", "model"),
}


@pytest.mark.parametrize("name", WRONG_TRANSFORMS)
async def test_a_wrong_request_for_the_rewrite_alone_is_refused(world: Prompted, name: str) -> None:
    body, status, code, param = WRONG_TRANSFORMS[name]
    assert refused(await world.post("/v1/steering/transform", **body), status, code)["param"] == param


async def test_an_upstream_answers_the_rewrite(world: Prompted) -> None:
    world.writes(QUESTION, REWRITE)
    answer = await world.chat(model="up/big", temperature=0.5)
    assert content(answer) == "well" and answer.model == "up/big"
    (received,) = world.upstream.received
    assert received.body == {"model": "big", "messages": user(REWRITE), "max_tokens": 6, "temperature": 0.5}
    assert answer.steering["prompt"] == REWRITE and answer.steering["applied"]
    assert [adapters for _, adapters in world.asked()] == [["clarity"]]
    chunks = await world.chat(model="up/big", stream=True)
    assert chunks[-1].steering["rewrite"]["status"] == "cached"
    assert "".join(chunk.choices[0].delta.content for chunk in chunks if chunk.choices) == "well"


async def test_a_bad_rewrite_reaches_no_upstream(world: Prompted) -> None:
    world.writes(QUESTION, "Paris.")
    answer = await world.chat(model="up/big")
    assert world.upstream.received[0].body["messages"] == user(QUESTION)
    assert answer.steering["rewrite"]["status"] == "original"


async def test_a_prompter_that_fails_sends_nothing_to_the_upstream(world: Prompted) -> None:
    world.engine.is_dead = True
    try:
        with pytest.raises(openai.APIStatusError) as caught:
            await world.chat(model="up/big")
    finally:
        world.engine.is_dead = False
    assert caught.value.status_code == 502 and not world.upstream.received


async def test_a_long_message_is_sent_as_it_is(world: Prompted) -> None:
    world.begin(max_tokens=4)
    answer = await world.chat()
    assert answer.steering["rewrite"]["reason"] == "too_long_to_rewrite"
    assert world.asked() == [(user(QUESTION), [])]
