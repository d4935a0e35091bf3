"""Answers whose heads read the generation, on the real app with the FakeEngine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from steer_server.catalogue.base_model import BaseModel
from steer_server.steering.plan import BASE_PLAN
from tests.api.test_rewards import chat, heads_server, num_scored, post, scored
from tests.support.adapters import TINY, tiny_base_model
from tests.support.administration import PROMPT, refused
from tests.support.servers import Running
from tests.support.waiting import until

READ = {"read": "generation"}
STEERED = {"cultures": {"amber": 1.0}, "reward_heads": ["kind", "terse"], "options": READ}
BASE = {"method": "none", "reward_heads": ["kind", "terse"], "options": READ}
BEST = {**STEERED, "method": "best_of_n", "options": {**READ, "n": 5}}


@pytest.fixture
async def fresh(tmp_path: Path) -> AsyncIterator[Running]:
    base: BaseModel = tiny_base_model(tmp_path / "model" / TINY)
    async with heads_server(tmp_path, base) as running:
        yield running


async def rewards(server: Running, steering: Any, **options: Any) -> dict[str, Any]:
    answer = await chat(server, steering, **options)
    assert answer.status_code == 200, answer.text
    text = answer.text.split("\n\n")[-3].removeprefix("data: ") if options.get("stream") else answer.text
    found: dict[str, Any] = json.loads(text)["steering"]
    assert options.get("stream") or found["plan"] == answer.headers["X-Steering-Plan"]
    return {**found["rewards"], "of": found["plan"]}


def raw(found: dict[str, Any], head: str = "kind") -> list[float]:
    return [one[head]["raw"] for one in found["scores"]]


async def test_every_choice_has_a_score_of_its_own_and_nothing_more_is_read(fresh: Running) -> None:
    assert fresh.fake is not None
    fresh.fake.scored.clear()
    for steering in (STEERED, BASE):
        found = await rewards(fresh, steering, n=3)
        assert found["heads"] == {"kind": "head-kind@1.0.0", "terse": "head-terse@1.0.0"}
        assert len(set(raw(found))) == len(set(raw(found, "terse"))) == 3
        assert found["num_tokens"] == 0 and found["cut"] == [False] * 3
    assert not fresh.fake.scored


async def test_the_response_says_what_was_read_and_under_which_plan(fresh: Running) -> None:
    steered, base = [await rewards(fresh, steering) for steering in (STEERED, BASE)]
    assert steered["read"] == base["read"] == "generation"
    assert steered["plan"] == steered["of"] != base["plan"] == BASE_PLAN.digest
    usual = await rewards(fresh, {**STEERED, "options": {"read": "turn_end"}})
    assert usual["read"] == "turn_end" and usual["plan"] == BASE_PLAN.digest != usual["of"]
    assert usual == await rewards(fresh, {**STEERED, "options": {}})
    assert raw(usual) != raw(steered)
    assert (await scored(fresh))["read"] == "turn_end"


async def test_a_stream_has_the_score_of_the_whole_answer(fresh: Running) -> None:
    for steering in (STEERED, BASE):
        assert await rewards(fresh, steering, stream=True) == await rewards(fresh, steering)


async def test_the_score_is_that_of_the_row_before_the_token_that_was_sampled_last(fresh: Running) -> None:
    """The stop string ends the same answer three tokens earlier than `max_tokens`."""
    text = (await chat(fresh, BASE, max_tokens=6)).json()["choices"][0]["message"]["content"].split()
    whole = await rewards(fresh, BASE, max_tokens=6)
    stopped = await rewards(fresh, BASE, max_tokens=6, stop=[text[2]])
    assert raw(stopped) == raw(await rewards(fresh, BASE, max_tokens=3)) != raw(whole)
    assert raw(await rewards(fresh, BASE, max_tokens=6, stop=[f"{text[2]} "])) == raw(
        await rewards(fresh, BASE, max_tokens=4)
    )


async def test_the_best_of_n_is_chosen_by_the_scores_of_its_generation(fresh: Running) -> None:
    assert fresh.fake is not None
    fresh.fake.scored.clear()
    drawn = await rewards(fresh, STEERED, n=5)
    for stream in (False, True):
        best = await rewards(fresh, BEST, n=2, stream=stream)
        assert [one["scores"] for one in best["candidates"]] == drawn["scores"]
        aggregates = sorted((one["aggregate"] for one in best["candidates"]), reverse=True)
        chosen = {one["choice"]: one for one in best["candidates"] if one["choice"] is not None}
        assert [chosen[0]["aggregate"], chosen[1]["aggregate"]] == aggregates[:2]
        assert best["scores"] == [chosen[0]["scores"], chosen[1]["scores"]]
        assert best["read"] == "generation" and best["plan"] == best["of"]
    assert not fresh.fake.scored


async def test_what_is_read_in_the_generation_is_logged_as_that_and_not_counted(
    fresh: Running, tmp_path: Path
) -> None:
    await rewards(fresh, STEERED)
    await rewards(fresh, {**STEERED, "options": {}})
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [line["read"] for line in lines] == ["generation", "turn_end"]
    assert lines[0]["group"] == lines[1]["group"] == {"amber@1.0.0": 1.0}
    assert num_scored(fresh) == {("kind", "answer"): 1, ("terse", "answer"): 1}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_head_that_is_removed_meanwhile_still_reads_the_whole_answer(
    fresh: Running, stream: bool
) -> None:
    assert fresh.fake is not None
    expected = await rewards(fresh, STEERED, max_tokens=40, stream=stream)
    fresh.fake.token_seconds = 0.02
    writing = asyncio.create_task(rewards(fresh, STEERED, max_tokens=40, stream=stream))
    while not fresh.fake.num_running:
        await asyncio.sleep(0.01)
    async with fresh.http() as http:
        assert (await http.delete("/v1/adapters/head-kind")).status_code == 200
    assert await writing == expected
    assert fresh.fake.num_running == 0 and fresh.steer is not None
    heads = fresh.steer.rewards._heads
    # A stream gives its heads back behind its last byte.
    await until(lambda: not heads._num_users)
    refused(await chat(fresh, STEERED), 400, "unknown_reward_head")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_choice_that_the_engine_gave_no_score_of_is_an_error(
    fresh: Running, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    from steer_server.engine.fake import FakeRun

    monkeypatch.setattr(FakeRun, "_read", lambda *_: None)
    answer = await chat(fresh, STEERED, stream=stream)
    if stream:
        assert (
            json.loads(answer.text.split("\n\n")[-3].removeprefix("data: "))["error"]["code"]
            == "engine_error"
        )
    else:
        assert "head-kind@1.0.0" in refused(answer, 502, "engine_error")["message"]


async def test_an_answer_without_text_has_no_score(fresh: Running) -> None:
    assert fresh.fake is not None
    fresh.fake.answers[json.dumps(PROMPT, sort_keys=True)] = ""
    found = await rewards(fresh, BASE, n=2)
    assert found["scores"][0] is None and found["scores"][1]["kind"]["raw"]


async def test_heads_read_no_generation_where_no_row_is_the_last(fresh: Running) -> None:
    error = refused(await chat(fresh, STEERED, use_beam_search=True, n=2), 400, "reward_heads_unavailable")
    assert error["param"] == "steering.options.read"
    assert (await chat(fresh, {**STEERED, "options": {}}, use_beam_search=True)).status_code == 200
    assert fresh.fake is not None
    fresh.fake.can_read_heads = False
    assert (
        refused(await chat(fresh, BEST), 400, "reward_heads_unavailable")["param"] == "steering.options.read"
    )
    assert (await chat(fresh, {**STEERED, "options": {}})).status_code == 200


@pytest.mark.parametrize("method", ["align_pro", "diffpo"])
async def test_methods_of_several_runs_have_no_such_option(fresh: Running, method: str) -> None:
    steering = {"method": method, "reward_heads": ["kind"], "options": READ}
    assert refused(await chat(fresh, steering), 400, "unknown_option")["param"] == "steering.options.read"
    body = {"messages": PROMPT, "answers": ["yes"], "heads": ["kind"], "read": "generation"}
    assert refused(await post(fresh, body), 400, "invalid_body")["param"] == "read"


async def test_a_client_that_goes_away_leaves_no_reader(fresh: Running) -> None:
    assert fresh.fake is not None and fresh.steer is not None
    engine, heads = fresh.fake, fresh.steer.rewards._heads
    engine.token_seconds = 0.05
    for stream in (False, True):
        asking = asyncio.create_task(chat(fresh, STEERED, stream=stream, max_tokens=2000))
        await until(lambda: engine.num_running)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: not engine.num_running and not heads._num_users)
