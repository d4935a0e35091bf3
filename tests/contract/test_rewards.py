"""The contract of reward heads: the same tests on FakeEngine and on vLLM, over HTTP."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.support.servers import Running

MESSAGES: Any = [{"role": "user", "content": "Is hard work more important than luck?"}]
ANSWERS = ["Hard work is.", "Luck is, and whoever says otherwise was lucky.", "Neither."]
NEAR = 0.3
"""Of raw scores: in bf16 what else is in a batch changes states a little."""


async def scored(server: Running, answers: list[str], *heads: str) -> dict[str, Any]:
    async with server.http() as http:
        body = {"messages": MESSAGES, "answers": answers, "heads": list(heads)}
        response = await http.post("/v1/rewards", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def ask(server: Running, steering: Any, **options: Any) -> Any:
    """The answer, or a stream's chunks."""
    async with server.client() as client:
        answer: Any = await client.chat.completions.create(
            model=server.model,
            messages=MESSAGES,
            extra_body={"steering": steering},
            **{"max_tokens": 12, "temperature": 1.0, **options},
        )
        return [chunk async for chunk in answer] if options.get("stream") else answer


def raw(scores: list[dict[str, Any]], head: str) -> list[float]:
    return [one[head]["raw"] for one in scores]


async def test_answers_are_scored_by_every_head_and_the_versions_are_named(server: Running) -> None:
    found = await scored(server, ANSWERS, "warm", "brief")
    assert found["heads"] == {"warm": "head-warm@1.0.0", "brief": "head-brief@1.0.0"}
    assert len(found["scores"]) == len(found["cut"]) == 3 and found["cut"][1]
    assert len(set(raw(found["scores"], "warm"))) == 3
    alone = [(await scored(server, [answer], "warm"))["scores"][0] for answer in ANSWERS]
    assert raw(alone, "warm") == pytest.approx(raw(found["scores"], "warm"), abs=NEAR)


async def test_scores_are_those_of_the_base_model_whatever_steered_the_answer(server: Running) -> None:
    culture = server.cultures[0]
    for steering in ({"method": "none"}, {"cultures": {culture: 1.0}}):
        answer = await ask(server, {**steering, "reward_heads": ["warm"]}, n=2)
        rewards = answer.steering["rewards"]
        again = await scored(server, [choice.message.content for choice in answer.choices], "warm")
        assert rewards["plan"] == again["plan"] and rewards["heads"] == again["heads"]
        assert raw(rewards["scores"], "warm") == pytest.approx(raw(again["scores"], "warm"), abs=NEAR)


async def test_the_last_chunk_of_a_stream_has_the_scores(server: Running) -> None:
    steering = {"cultures": {server.cultures[0]: 1.0}, "reward_heads": ["warm"]}
    chunks = await ask(server, steering, stream=True)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    (score,) = raw(chunks[-1].steering["rewards"]["scores"], "warm")
    assert score == pytest.approx(raw((await scored(server, [text], "warm"))["scores"], "warm")[0], abs=NEAR)


async def test_the_best_of_n_is_the_best_candidate(server: Running) -> None:
    steering = {"method": "best_of_n", "reward_heads": ["warm", "brief"], "options": {"n": 5}}
    answer = await ask(server, steering, n=2)
    rewards = answer.steering["rewards"]
    aggregates = [candidate["aggregate"] for candidate in rewards["candidates"]]
    for candidate in rewards["candidates"]:
        calibrated = [candidate["scores"][head]["calibrated"] for head in ("warm", "brief")]
        assert candidate["aggregate"] == pytest.approx(sum(calibrated) / 2)
    places = {c["choice"]: c["aggregate"] for c in rewards["candidates"] if c["choice"] is not None}
    assert [places[0], places[1]] == sorted(aggregates, reverse=True)[:2]
    assert len(answer.choices) == 2 and answer.usage.completion_tokens > 2 * 12 - 12


async def test_a_streamed_best_of_n_is_a_stream_like_others(server: Running) -> None:
    steering = {"method": "best_of_n", "reward_heads": ["warm"], "options": {"n": 2}}
    chunks = await ask(server, steering, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == [] and len(chunks[-1].steering["rewards"]["candidates"]) == 2


async def test_scores_of_the_generation_are_those_of_its_own_plan_and_say_so(server: Running) -> None:
    steered: Any = {"cultures": {server.cultures[0]: 1.0}}
    found = {}
    for name, steering in {"steered": steered, "none": {"method": "none"}}.items():
        asked = {**steering, "reward_heads": ["warm", "brief"], "options": {"read": "generation"}}
        answer = await ask(server, asked, temperature=0)
        rewards = found[name] = answer.steering["rewards"]
        assert rewards["read"] == "generation" and rewards["plan"] == answer.steering["plan"]
        assert rewards["heads"] == {"warm": "head-warm@1.0.0", "brief": "head-brief@1.0.0"}
        assert rewards["num_tokens"] == 0
        chunks = await ask(server, asked, temperature=0, stream=True)
        streamed = chunks[-1].steering["rewards"]
        assert streamed["plan"] == rewards["plan"]
        assert raw(streamed["scores"], "warm") == pytest.approx(raw(rewards["scores"], "warm"), abs=NEAR)
        several = (await ask(server, asked, n=3)).steering["rewards"]
        assert len(several["scores"]) == 3
    assert found["steered"]["plan"] != found["none"]["plan"]
    at_zero = {**steered, "strength": 0, "reward_heads": ["warm"], "options": {"read": "generation"}}
    rewards = (await ask(server, at_zero, temperature=0)).steering["rewards"]
    assert rewards["plan"] == found["none"]["plan"]
    assert raw(rewards["scores"], "warm") == pytest.approx(raw(found["none"]["scores"], "warm"), abs=NEAR)
    best = {"method": "best_of_n", "reward_heads": ["warm"], "options": {"n": 3, "read": "generation"}}
    rewards = (await ask(server, {**steered, **best})).steering["rewards"]
    candidates = sorted(candidate["aggregate"] for candidate in rewards["candidates"])
    assert rewards["scores"][0]["warm"]["calibrated"] == candidates[-1]
    assert rewards["read"] == "generation" and rewards["plan"] == found["steered"]["plan"]


WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "an unknown head": ({"method": "none", "reward_heads": ["wram"]}, {}, "steering.reward_heads.0"),
    "best of n without heads": ({"method": "best_of_n"}, {}, "steering.reward_heads"),
    "too many candidates": (
        {"method": "best_of_n", "reward_heads": ["warm"], "options": {"n": 17}},
        {},
        "steering.options.n",
    ),
    "a place to read that there is not": (
        {"method": "none", "reward_heads": ["warm"], "options": {"read": "end"}},
        {},
        "steering.options.read",
    ),
    "temperature 0": ({"method": "best_of_n", "reward_heads": ["warm"]}, {"temperature": 0}, "temperature"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_what_cannot_be_scored_is_refused(server: Running, name: str) -> None:
    steering, options, param = WRONG[name]
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(server, steering, **options)
    assert caught.value.param == param


async def test_messages_that_a_template_refuses_are_the_clients_fault(server: Running) -> None:
    body = {"messages": [{"role": "user", "content": 3}], "answers": ["yes"], "heads": ["warm"]}
    async with server.http() as http:
        response = await http.post("/v1/rewards", json=body)
    assert response.status_code == 400 and response.json()["error"]["param"] == "messages.0"
