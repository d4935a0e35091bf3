"""best_of_n on the real app with the FakeEngine: the chosen answer is the best, and all it says is so."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.support.administration import PROMPT
from tests.support.servers import Running

NUM_TOKENS = 6


def best(**steering: Any) -> dict[str, Any]:
    return {"method": "best_of_n", "reward_heads": ["warm"], **steering}


async def ask(server: Running, steering: Any, **options: Any) -> Any:
    """The answer, or a stream's chunks."""
    async with server.client() as client:
        answer: Any = await client.chat.completions.create(
            model=server.model,
            messages=PROMPT,  # type: ignore[arg-type]
            max_tokens=NUM_TOKENS,
            extra_body={"steering": steering},
            **options,
        )
        return [chunk async for chunk in answer] if options.get("stream") else answer


async def scored(server: Running, answers: list[str], heads: list[str]) -> list[dict[str, Any]]:
    async with server.http() as http:
        body = {"messages": PROMPT, "answers": answers, "heads": heads}
        return list((await http.post("/v1/rewards", json=body)).raise_for_status().json()["scores"])


async def drawn(server: Running, num: int, steering: Any) -> list[str]:
    answer = await ask(server, steering, n=num)
    return [choice.message.content for choice in answer.choices]


async def test_the_best_of_the_candidates_is_given_with_all_scores(fake: Running) -> None:
    answer = await ask(fake, best(options={"n": 6}))
    texts = await drawn(fake, 6, {"method": "none"})
    scores = await scored(fake, texts, ["warm"])
    rewards = answer.steering["rewards"]
    assert [candidate["scores"] for candidate in rewards["candidates"]] == scores
    calibrated = [score["warm"]["calibrated"] for score in scores]
    assert [candidate["aggregate"] for candidate in rewards["candidates"]] == calibrated
    (choice,) = answer.choices
    winner = calibrated.index(max(calibrated))
    assert choice.index == 0 and choice.message.content == texts[winner]
    assert rewards["scores"] == [scores[winner]] and rewards["weights"] == {"warm": 1.0}
    assert [c["choice"] for c in rewards["candidates"]] == [0 if i == winner else None for i in range(6)]
    assert answer.steering["method"] == "best_of_n"


async def test_usage_counts_every_candidate(fake: Running) -> None:
    answer = await ask(fake, best(options={"n": 5}))
    assert answer.usage.completion_tokens == 5 * NUM_TOKENS


async def test_the_n_best_are_given_best_first(fake: Running) -> None:
    answer = await ask(fake, best(options={"n": 6}), n=3)
    texts = [choice.message.content for choice in answer.choices]
    calibrated = [one["warm"]["calibrated"] for one in await scored(fake, texts, ["warm"])]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert calibrated == sorted(calibrated, reverse=True)
    everyone = [one["aggregate"] for one in answer.steering["rewards"]["candidates"]]
    assert calibrated == sorted(everyone, reverse=True)[:3]


@pytest.mark.parametrize("head", ["warm", "brief"])
async def test_weights_over_heads_decide(fake: Running, head: str) -> None:
    steering = best(reward_heads=["warm", "brief"], options={"n": 8, "weights": {head: 2.0}})
    rewards = (await ask(fake, steering)).steering["rewards"]
    of_head = [candidate["scores"][head]["calibrated"] for candidate in rewards["candidates"]]
    assert [candidate["aggregate"] for candidate in rewards["candidates"]] == of_head
    assert rewards["scores"][0][head]["calibrated"] == max(of_head)
    assert rewards["scores"][0].keys() == {"warm", "brief"}


async def test_candidates_are_drawn_under_the_requests_plan(fake: Running) -> None:
    steering = {"cultures": {fake.cultures[0]: 1.0}}
    answer = await ask(fake, best(**steering, options={"n": 4}))
    assert answer.choices[0].message.content in await drawn(fake, 4, steering)
    assert answer.steering["applied"] == [{"adapter": f"{fake.cultures[0]}@1.0.0", "weight": 1.0}]
    plain = await ask(fake, best(options={"n": 4}))
    assert plain.steering["applied"] == [] and plain.steering["plan"] == plain.steering["rewards"]["plan"]


async def test_a_stream_gives_the_winner_at_once_and_ends_like_every_steered_stream(fake: Running) -> None:
    whole = await ask(fake, best(), n=2)
    chunks = await ask(fake, best(), n=2, stream=True, stream_options={"include_usage": True})
    for index in (0, 1):
        choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
        assert (
            "".join(choice.delta.content or "" for choice in choices) == whole.choices[index].message.content
        )
        assert choices[0].delta.role == "assistant" and choices[-1].finish_reason == "length"
    assert chunks[-2].usage == whole.usage and chunks[-1].choices == []
    assert chunks[-1].steering["rewards"] == whole.steering["rewards"]
    without = await ask(fake, best(), stream=True)
    assert not any(chunk.usage for chunk in without)


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "more than the policy allows": (best(options={"n": 17}), {}, "steering.options.n"),
    "more answers than candidates": (best(options={"n": 2}), {"n": 3}, "n"),
    "no answer at all": (best(), {"n": 0}, "n"),
    "temperature 0": (best(), {"temperature": 0}, "temperature"),
    "an unknown head": (best(reward_heads=["warn"]), {}, "steering.reward_heads.0"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_what_cannot_be_chosen_is_refused(fake: Running, name: str) -> None:
    steering, options, param = WRONG[name]
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(fake, steering, **options)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("field", "value"), [("stream", "yes"), ("stream_options", "usage"), ("n", "3"), ("n", True)]
)
async def test_a_field_that_the_engine_does_not_see_is_checked_all_the_same(
    fake: Running, field: str, value: Any
) -> None:
    body = {"model": fake.model, "messages": PROMPT, "stream": True, "steering": best(), field: value}
    async with fake.http() as http:
        response = await http.post("/v1/chat/completions", json=body)
    assert response.status_code == 400 and response.json()["error"]["param"] == field


async def test_one_candidate_at_temperature_0_is_a_plain_answer_with_its_score(fake: Running) -> None:
    answer = await ask(fake, best(options={"n": 1}), temperature=0)
    assert len(answer.steering["rewards"]["candidates"]) == 1


async def test_a_refusal_of_the_engine_is_passed_on_also_when_streaming(fake: Running) -> None:
    body = {"model": "gpt-5", "messages": PROMPT, "stream": True, "steering": best()}
    async with fake.http() as http:
        response = await http.post("/v1/chat/completions", content=json.dumps(body), headers=JSON)
    assert response.status_code == 404


async def test_its_events_say_tool_calls_as_streams_do() -> None:
    from steer_server.api.best_of_n import as_stream

    call = {"id": "1", "type": "function", "function": {"name": "vote", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls", "logprobs": None}
    body = {"id": "x", "created": 0, "model": "m", "choices": [choice], "usage": {}, "steering": {}}
    events = [event async for event in as_stream(body, has_usage=False)]
    first = json.loads(events[0].removeprefix("data: "))["choices"][0]["delta"]
    assert first == {"role": "assistant", "tool_calls": [{"index": 0, **call}]}
    assert events[-1] == "data: [DONE]\n\n"


JSON = {"Content-Type": "application/json"}
