"""diffpo on the real app with the FakeEngine: what is given, what is said of it, and that nothing is left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from steer_server.engine.fake import WORDS, FakeEngine
from steer_server.errors import AbortedError
from steer_server.frozen.guard import MAX_LOSS
from steer_server.steering.plan import BASE_PLAN, SteeringPlan, build_plan
from steer_server.steering.policy import Policy
from steer_server.steering.spec import parse_spec
from tests.support.adapters import TINY, tiny_base_model
from tests.support.servers import Running, fake_server
from tests.support.waiting import until

PROMPT = [{"role": "user", "content": "May a guest refuse food?"}]
DRAFT = "w01 w02 w03 w57. w04 w05 w06 w58. w07 w08 w09 w60."
OPTIONS = {"draft": DRAFT, "candidates": 16}
STATEMENT = "Guests come first."


def steering(**more: Any) -> dict[str, Any]:
    """So little of the culture, and so many candidates, that some are better, whatever the fake's noise."""
    return {"cultures": {"amber": 0.2}, "method": "diffpo", "options": OPTIONS, **more}


async def ask(server: Running, spec: dict[str, Any] | None = None, **options: Any) -> Any:
    async with server.client() as client:
        answer = await client.chat.completions.create(
            **{"model": server.model, "messages": PROMPT, "max_tokens": 24},
            **options,
            extra_body={"steering": spec or steering()},
        )
        return [chunk async for chunk in answer] if options.get("stream") else answer


def text_of(answer: Any) -> str:
    return str(answer.choices[0].message.content)


def engine_of(server: Running) -> FakeEngine:
    assert server.fake is not None
    return server.fake


def forget_requests(server: Running) -> None:
    engine_of(server).asked.clear()
    engine_of(server).read.clear()


def plan_of(server: Running, spec: dict[str, Any]) -> SteeringPlan:
    assert server.steer is not None
    return build_plan(parse_spec(spec), server.steer.catalogue.snapshot, Policy())


def logprobs_of(server: Running, text: str, plan: SteeringPlan, messages: Any = None) -> list[float]:
    prompt = json.dumps(messages or PROMPT, sort_keys=True)
    found = enumerate(text.split())
    return [float(engine_of(server).logprobs(prompt, i, plan)[WORDS.index(word)]) for i, word in found]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.fixture(autouse=True)
def nothing_is_left(fake: Running) -> Iterator[None]:
    """After every test."""
    yield
    assert engine_of(fake).num_running == 0
    assert fake.steer is not None and fake.steer.leases.num_leases == 0


@pytest.mark.parametrize("variant", ["spans", "conflicts"])
async def test_a_draft_is_moved_toward_what_the_plan_prefers(fake: Running, variant: str) -> None:
    spec = steering(options={**OPTIONS, "variant": variant})
    answer = await ask(fake, spec)
    found = answer.steering["denoising"]
    assert found["draft"] == DRAFT and found["draft_by"] == "client" and found["variant"] == variant
    # There may be no conflict at all.
    is_changed = text_of(answer) != DRAFT
    assert is_changed or variant == "conflicts"
    assert (found["outcome"] == "improved") == is_changed == (found["changed_share"] > 0)
    plan = plan_of(fake, spec)
    for text, said in ((DRAFT, found["draft_scores"]), (text_of(answer), found["answer_scores"])):
        base = mean(logprobs_of(fake, text, BASE_PLAN))
        assert said["log_likelihood"] == pytest.approx(base, abs=1e-3)
        assert said["log_ratio"] == pytest.approx(mean(logprobs_of(fake, text, plan)) - base, abs=1e-3)
    assert (found["answer_scores"]["log_ratio"] > found["draft_scores"]["log_ratio"]) == is_changed
    worst = (1 + MAX_LOSS) * found["draft_scores"]["log_likelihood"]
    assert found["answer_scores"]["log_likelihood"] >= worst - 1e-3
    assert answer.steering["plan"] == plan.digest and answer.steering["method"] == "diffpo"


async def test_without_a_draft_the_local_model_writes_it_as_it_is(fake: Running) -> None:
    async with fake.client() as client:
        plain = await client.chat.completions.create(model=fake.model, messages=PROMPT, max_tokens=24)
    answer = await ask(fake, steering(cultures={"amber": 1.0}, options={}))
    found = answer.steering["denoising"]
    assert found["draft"] == text_of(plain) and found["draft_by"] == fake.model
    assert (found["outcome"] == "draft") == (text_of(answer) == found["draft"])
    assert (found["reason"] is None) == (found["outcome"] == "improved")


async def test_a_statement_steers_a_model_without_adapters(fake: Running) -> None:
    answer = await ask(fake, {"method": "diffpo", "options": {**OPTIONS, "statement": STATEMENT}})
    found = answer.steering["denoising"]
    assert answer.steering["applied"] == [] and found["statement"] == STATEMENT
    told = [{"role": "system", "content": STATEMENT}, *PROMPT]
    steered, plain = (logprobs_of(fake, DRAFT, BASE_PLAN, messages) for messages in (told, PROMPT))
    assert found["draft_scores"]["log_ratio"] == pytest.approx(mean(steered) - mean(plain), abs=1e-3)
    assert found["outcome"] == "improved"


async def test_guidance_scales_what_candidates_are_drawn_from_alone(fake: Running) -> None:
    forget_requests(fake)
    await ask(fake, steering(strength=0.5, options={**OPTIONS, "guidance": 2.0}))
    drawn = {plan.adapters[0].weight for _, plan in engine_of(fake).asked}
    scored = {plan.adapters[0].weight for _, plan in engine_of(fake).read if plan.adapters}
    assert drawn == {0.2} and scored == {0.1}


async def test_at_strength_0_there_is_nothing_to_move_toward(fake: Running) -> None:
    answer = await ask(fake, steering(strength=0))
    assert text_of(answer) == DRAFT and answer.steering["denoising"]["reason"] == "no_steering"


async def test_what_was_computed_is_counted(fake: Running) -> None:
    forget_requests(fake)
    answer = await ask(fake)
    forward = answer.steering["denoising"]["forward_tokens"]
    prompts = [prompt for body, _ in engine_of(fake).asked for prompt in body["prompt"]]
    prompts += [text.token_ids for text, _ in engine_of(fake).read]
    assert forward["prefilled"] == sum(map(len, prompts))
    assert answer.usage.completion_tokens == forward["generated"] > 0
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_each_round_is_one_batch(fake: Running) -> None:
    """A loop is one request that draws; all candidates are read at once, under both distributions."""
    forget_requests(fake)
    answer = await ask(fake, steering(options={**OPTIONS, "loops": 1}))
    assert answer.steering["denoising"]["loops"] == 1
    ((drawing, _),) = engine_of(fake).asked
    assert drawing["n"] == 16 and len(drawing["prompt"]) == 2


async def test_nothing_is_read_twice(fake: Running) -> None:
    """The draft is read whole; of what follows, that which no earlier text begins with."""
    forget_requests(fake)
    await ask(fake, steering(options={**OPTIONS, "loops": 1}))
    (steered, _), (reference, _), *candidates = engine_of(fake).read
    assert steered == reference and steered.first == 1 and len(steered.token_ids) == 1 + len(DRAFT.split())
    assert candidates
    known = [steered.token_ids]
    for text, _ in candidates:
        assert any(text.token_ids[: text.first] == ids[: text.first] for ids in known)
        assert text.token_ids[: text.first + 1] != steered.token_ids[: text.first + 1]
        known.append(text.token_ids)


async def test_a_stream_gives_the_answer_at_once_and_ends_like_every_steered_stream(fake: Running) -> None:
    whole = await ask(fake)
    chunks = await ask(fake, stream=True, stream_options={"include_usage": True})
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == text_of(whole)
    assert chunks[-2].usage == whole.usage and chunks[-1].choices == []
    assert chunks[-1].steering["denoising"] == whole.steering["denoising"]
    drawn = await ask(fake, steering(options={}), stream=True)
    assert drawn[-1].steering["denoising"]["draft_by"] == fake.model


async def test_reward_heads_score_the_answer_that_is_given(fake: Running) -> None:
    answer = await ask(fake, steering(reward_heads=["warm"]))
    body = {"messages": PROMPT, "answers": [text_of(answer)], "heads": ["warm"]}
    async with fake.http() as http:
        scores = (await http.post("/v1/rewards", json=body)).json()["scores"]
    assert answer.steering["rewards"]["scores"] == scores


async def test_an_empty_draft_is_given_back(fake: Running) -> None:
    engine_of(fake).answers[json.dumps(PROMPT, sort_keys=True)] = ""
    try:
        answer = await ask(fake, steering(options={}))
    finally:
        engine_of(fake).answers.clear()
    assert answer.choices[0].message.content == ""
    assert answer.steering["denoising"]["reason"] == "empty_draft"


async def test_a_draft_that_the_model_cannot_read_is_refused_or_given_back(
    fake: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_of(fake), "max_model_tokens", 64 + 1 + len(DRAFT.split()) - 1)
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(fake)
    assert caught.value.param == "steering.options.draft" and caught.value.code == "context_length_exceeded"
    answer = await ask(fake, steering(options={}))
    assert answer.steering["denoising"]["reason"] == "draft_too_long"


async def test_no_answer_is_longer_than_the_client_wants(fake: Running) -> None:
    limit = len(DRAFT.split())
    async with fake.client() as client:
        answer = await client.chat.completions.create(
            model=fake.model,
            messages=PROMPT,
            max_tokens=3,
            extra_body={"steering": steering()},
        )
    assert len(text_of(answer).split()) <= limit


async def test_no_candidate_has_the_clients_stop_in_it(fake: Running) -> None:
    plain = text_of(await ask(fake))
    changed = [word for word in plain.split() if word not in DRAFT][:4]
    answer = await ask(fake, stop=changed)
    assert changed and not any(word in text_of(answer) for word in changed)


async def test_at_temperature_0_one_candidate_is_drawn(fake: Running) -> None:
    engine_of(fake).asked.clear()
    await ask(fake, temperature=0)
    assert {body["n"] for body, _ in engine_of(fake).asked if "n" in body} == {1}


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "several answers": ({}, {"n": 2}, "n"),
    "tools": ({}, {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    "structured output": ({}, {"response_format": {"type": "json_object"}}, "response_format"),
    "log-probabilities": ({}, {"logprobs": True}, "logprobs"),
    "a stop that is none": ({}, {"stop": 5}, "stop"),
    "a salt that is no text": ({}, {"cache_salt": 5}, "cache_salt"),
    "an empty salt": ({}, {"cache_salt": ""}, "cache_salt"),
    "no tokens at all": ({}, {"max_tokens": 0}, "max_tokens"),
    "an empty draft": ({"options": {"draft": " "}}, {}, "steering.options.draft"),
    "more loops than allowed": ({"options": {"loops": 13}}, {}, "steering.options.loops"),
    "an unknown option": ({"options": {"loop": 1}}, {}, "steering.options.loop"),
    "an unknown culture": ({"cultures": {"ambre": 1}}, {}, "steering.cultures.ambre"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_it_does_not_do_is_refused(fake: Running, name: str) -> None:
    spec, fields, param = REFUSED[name]
    body = {"model": fake.model, "messages": PROMPT, "steering": steering(**spec), **fields}
    async with fake.http() as http:
        response = await http.post("/v1/chat/completions", json=body)
    assert response.status_code == 400 and response.json()["error"]["param"] == param


async def test_it_answers_conversations_alone(fake: Running) -> None:
    body = {"model": fake.model, "prompt": "Once", "steering": steering()}
    async with fake.http() as http:
        response = await http.post("/v1/completions", json=body)
    assert response.status_code == 400 and response.json()["error"]["param"] == "steering.method"


async def test_a_model_that_does_not_exist_is_refused_whoever_wrote_the_draft(fake: Running) -> None:
    for spec in (steering(), steering(options={})):
        body = {"model": "gpt-5", "messages": PROMPT, "steering": spec}
        async with fake.http() as http:
            assert (await http.post("/v1/chat/completions", json=body)).status_code == 404


async def test_what_became_of_drafts_is_counted(fake: Running) -> None:
    assert fake.steer is not None
    answers = fake.steer.metrics.denoising.answers
    before = {name: answers.labels(name)._value.get() for name in ("improved", "no_steering")}
    await ask(fake)
    await ask(fake, steering(strength=0))
    assert answers.labels("improved")._value.get() == before["improved"] + 1
    assert answers.labels("no_steering")._value.get() == before["no_steering"] + 1


@pytest.fixture(scope="module")
async def slow(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """The same, where a word takes time."""
    folder = tmp_path_factory.mktemp("slow")
    tiny_base_model(folder / TINY)
    async with fake_server(folder, Path(folder / TINY), token_seconds=0.01) as running:
        yield running


@pytest.mark.parametrize("where", ["the draft is scored", "candidates are drawn", "they are scored"])
async def test_a_client_that_leaves_takes_everything_with_it(slow: Running, where: str) -> None:
    engine = engine_of(slow)
    assert slow.steer is not None
    forget_requests(slow)
    has_come = {
        "the draft is scored": lambda: engine.read,
        "candidates are drawn": lambda: engine.asked,
        "they are scored": lambda: len(engine.read) > 2,
    }[where]
    body = {"model": slow.model, "messages": PROMPT, "steering": steering()}
    async with slow.http() as http:
        asking = asyncio.create_task(http.post("/v1/chat/completions", json=body))
        await until(has_come)
        assert slow.steer.leases.num_leases > 0
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    await until(lambda: engine.num_running == 0 and slow.steer.leases.num_leases == 0)


async def test_its_slots_stay_its_own_between_rounds(slow: Running) -> None:
    engine = engine_of(slow)
    assert slow.steer is not None
    forget_requests(slow)
    asking = asyncio.create_task(ask(slow))
    await until(lambda: engine.read)
    digest = plan_of(slow, steering()).adapters[0].digest
    evicting = asyncio.create_task(slow.steer.leases.evict(digest))
    await until(lambda: len(engine.read) > 2)
    assert not evicting.done() and digest in slow.steer.leases.resident
    assert (await asking).steering["denoising"]["loops"] >= 1
    await evicting
    assert digest not in slow.steer.leases.resident


async def test_an_engine_that_dies_between_rounds_is_an_error(slow: Running) -> None:
    engine = engine_of(slow)
    assert slow.steer is not None
    forget_requests(slow)
    asking = asyncio.create_task(ask(slow))
    await until(lambda: engine.asked)
    engine.is_dead = True
    try:
        with pytest.raises(openai.APIStatusError) as caught:
            await asking
    finally:
        engine.is_dead = False
    assert caught.value.status_code == 502
    await until(lambda: engine.num_running == 0 and slow.steer.leases.num_leases == 0)


async def test_an_answer_whose_adapter_is_barred_while_it_is_read_is_an_error(slow: Running) -> None:
    engine, plan = engine_of(slow), plan_of(slow, steering())
    assert slow.steer is not None
    running = slow.steer.running
    forget_requests(slow)
    asking = asyncio.create_task(ask(slow))
    await until(lambda: engine.read)
    for request in list(running._by_digest[plan.adapters[0].digest]):
        request.abort(AbortedError("The culture was withdrawn."))
    with pytest.raises(openai.APIStatusError, match="withdrawn"):
        await asking
    await until(lambda: engine.num_running == 0 and slow.steer.leases.num_leases == 0)


async def test_a_reader_of_a_stream_may_leave_at_any_time(slow: Running) -> None:
    body = {
        "model": slow.model,
        "messages": PROMPT,
        "stream": True,
        "steering": steering(options={"draft": DRAFT}),
    }
    async with slow.http() as http, http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == httpx.codes.OK
    assert slow.steer is not None
    await until(lambda: engine_of(slow).num_running == 0 and slow.steer.leases.num_leases == 0)
