"""`POST /v1/rewards`, and scores beside answers, on the real app with the FakeEngine."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from steer_server.catalogue.base_model import BaseModel
from steer_server.engine.base import ScoredText, ScoringText
from steer_server.errors import EngineError
from steer_server.settings import Settings
from steer_server.steering.plan import BASE_PLAN
from tests.support.adapters import TINY, random_adapter, tiny_base_model
from tests.support.administration import PROMPT, act, answered_by, push, refused
from tests.support.heads import random_head
from tests.support.servers import Running, app_server
from tests.support.waiting import until

ANSWERS = ["Very important.", "Not at all.", "It depends on whom you ask, and on the day."]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base_model(tmp_path_factory.mktemp("model") / TINY)


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory, base: BaseModel) -> AsyncIterator[Running]:
    async with heads_server(tmp_path_factory.mktemp("shared"), base) as running:
        yield running


@pytest.fixture
async def fresh(tmp_path: Path, base: BaseModel) -> AsyncIterator[Running]:
    """For tests that count, or change what is served."""
    async with heads_server(tmp_path, base) as running:
        yield running


@asynccontextmanager
async def heads_server(folder: Path, base: BaseModel) -> AsyncIterator[Running]:
    adapters = folder / "adapters"
    random_adapter(adapters, "amber", base)
    random_head(adapters, "head-kind", base, scale=2.0)
    random_head(adapters, "head-terse", base, max_tokens=8)
    random_head(adapters, "head-amber", base, culture="amber")
    settings = Settings(
        model=base.path,
        served_model_name="fake",
        bank_rank=8,
        adapters=adapters,
        data=folder / "data",
        admin_key=SecretStr("admin"),
        api_key=SecretStr("static"),
        score_log=folder / "scores.jsonl",
        score_log_share=1.0,
    )
    async with app_server(settings, key="admin", token_seconds=0.001) as running:
        yield running


async def post(server: Running, body: Any, key: str | None = None) -> Any:
    async with server.http(key) as http:
        return await http.post("/v1/rewards", json=body)


async def scored(server: Running, **body: Any) -> dict[str, Any]:
    answer = await post(server, {"messages": PROMPT, "answers": ANSWERS, "heads": ["kind", "terse"], **body})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def chat(server: Running, steering: Any, **options: Any) -> Any:
    body = {"model": "fake", "messages": PROMPT, "max_tokens": 6, "steering": steering, **options}
    async with server.http() as http:
        return await http.post("/v1/chat/completions", json=body)


def num_scored(server: Running) -> dict[tuple[str, str], float]:
    """By head and origin, as the metric counts them."""
    assert server.steer is not None
    return {
        (sample.labels["head"], sample.labels["origin"]): sample.value
        for family in server.steer.metrics.reward_score.collect()
        for sample in family.samples
        if sample.name == "steer_reward_score_count"
    }


async def test_every_answer_has_a_raw_and_a_calibrated_score_by_every_head(server: Running) -> None:
    found = await scored(server)
    assert found["plan"] == BASE_PLAN.digest
    assert found["heads"] == {"kind": "head-kind@1.0.0", "terse": "head-terse@1.0.0"}
    assert len(found["scores"]) == len(ANSWERS)
    assert all(entry.keys() == {"kind", "terse"} for entry in found["scores"])
    for entry in found["scores"]:
        kind = entry["kind"]
        assert kind["calibrated"] == pytest.approx(1 / (1 + math.exp(-2 * kind["raw"])))
    assert len({entry["kind"]["raw"] for entry in found["scores"]}) == len(ANSWERS)
    assert found["usage"]["prompt_tokens"] == found["usage"]["total_tokens"] > 0


async def test_answers_whose_beginning_no_head_reads_are_marked(server: Running) -> None:
    assert (await scored(server))["cut"] == [True, True, True]
    assert (await scored(server, heads=["kind"]))["cut"] == [False, False, False]


async def test_a_batch_is_the_same_as_its_parts(server: Running) -> None:
    other = [{"role": "user", "content": [{"type": "text", "text": "Is luck important?"}]}]
    entries = [
        {"messages": PROMPT, "answers": ANSWERS, "heads": ["kind", "terse"]},
        {"messages": other, "answers": ANSWERS[:1], "heads": ["amber"]},
    ]
    response = await post(server, {"batch": entries})
    assert response.status_code == 200, response.text
    batch = response.json()["batch"]
    alone = [await scored(server, **entry) for entry in entries]
    assert batch == [{k: v for k, v in one.items() if k != "usage"} for one in alone]
    total = sum(one["usage"]["prompt_tokens"] for one in alone)
    assert response.json()["usage"]["prompt_tokens"] == total


WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "an unknown head": ({"heads": ["kind", "terce"]}, 400, "heads[1]"),
    "a head twice": ({"heads": ["kind", "kind"]}, 400, "heads[1]"),
    "no head": ({"heads": []}, 400, "heads"),
    "no answer": ({"answers": []}, 400, "answers"),
    "an empty answer": ({"answers": ["yes", ""]}, 400, "answers[1]"),
    "too many answers": ({"answers": ["yes"] * 257}, 400, "answers"),
    "an answer that is no text": ({"answers": [3]}, 400, "answers[0]"),
    "an endless answer": ({"answers": ["yes", "a" * 400_001]}, 400, "answers.1"),
    "no messages": ({"messages": []}, 400, "messages"),
    "a message without text": ({"messages": [{"role": "user", "content": None}]}, 400, "messages.0"),
    "a picture": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        400,
        "messages.0",
    ),
    "a misspelt key": ({"head": ["kind"]}, 400, "head"),
    "another model": ({"model": "gpt-5"}, 404, "model"),
    "steering": ({"steering": {"method": "none"}}, 400, "steering"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_request_is_refused_with_the_field(server: Running, name: str) -> None:
    changed, status, param = WRONG[name]
    response = await post(server, {"messages": PROMPT, "answers": ["yes"], "heads": ["kind"], **changed})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param), response.text
    assert error["message"] and error["code"]


async def test_an_unknown_head_is_answered_with_the_nearest(server: Running) -> None:
    response = await post(server, {"messages": PROMPT, "answers": ["yes"], "heads": ["terce"]})
    assert "Did you mean 'terse'" in refused(response, 400, "unknown_reward_head")["message"]


async def test_a_wrong_batch_names_the_entry(server: Running) -> None:
    good = {"messages": PROMPT, "answers": ["yes"], "heads": ["kind"]}
    response = await post(server, {"batch": [good, {**good, "heads": ["nobody"]}]})
    assert response.json()["error"]["param"] == "batch[1].heads[0]"
    response = await post(server, {"batch": [{**good, "answers": ["yes"] * 200}] * 2})
    assert response.status_code == 400 and "400 answers; at most 256" in response.text
    for mixed in ({"batch": [good], "heads": ["kind"]}, {"messages": PROMPT}, {}):
        assert (await post(server, mixed)).status_code == 400


async def test_answers_are_counted_with_the_conversation_that_is_read_for_each(server: Running) -> None:
    long = [{"role": "user", "content": "a" * 30_000}]
    many = {"messages": long, "answers": ["yes"] * 67, "heads": ["kind"]}
    for body, place in ((many, "answers"), ({"batch": [many]}, "batch")):
        error = refused(await post(server, body), 400, "invalid_body")
        assert error["param"] == place and "2010201 characters" in error["message"]
    assert (await post(server, {**many, "answers": ["yes"] * 66})).status_code == 200


async def test_a_text_is_read_with_the_cache_salt_of_its_request(fresh: Running) -> None:
    assert fresh.fake is not None
    await scored(fresh, cache_salt="mine")
    assert {text.cache_salt for text in fresh.fake.scored} == {None, "mine"}  # None: the probes of the heads
    steering = {"method": "best_of_n", "reward_heads": ["kind"], "options": {"n": 2}}
    for salted, salt in (({"cache_salt": "yours"}, "yours"), ({}, None)):
        fresh.fake.scored.clear()
        assert (await chat(fresh, steering, **salted)).status_code == 200
        assert [text.cache_salt for text in fresh.fake.scored] == [salt, salt]
    wrong = {"messages": PROMPT, "answers": ["yes"], "heads": ["kind"], "cache_salt": ""}
    assert refused(await post(fresh, wrong), 400, "invalid_body")["param"] == "cache_salt"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_score_that_is_no_number_is_an_error(
    fresh: Running, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    assert fresh.fake is not None and fresh.steer is not None
    digest = fresh.steer.catalogue.snapshot.reward_heads["kind"].digest

    async def score(texts: list[ScoringText]) -> list[ScoredText]:
        return [ScoredText({digest: math.nan}, 1, False) for _ in texts]

    monkeypatch.setattr(fresh.fake, "score", score)
    answer = await chat(fresh, {"method": "none", "reward_heads": ["kind"]}, stream=stream)
    if stream:
        answer = answer.text.split("\n\n")[-3].removeprefix("data: ")
        assert json.loads(answer)["error"]["code"] == "engine_error"
    else:
        assert "head-kind@1.0.0" in refused(answer, 502, "engine_error")["message"]


async def test_a_key_for_some_cultures_may_not_use_the_heads_of_others(server: Running) -> None:
    async with server.http() as http:
        made = await http.post("/v1/keys", json={"label": "narrow", "limits": {"cultures": ["blue"]}})
    narrow = made.raise_for_status().json()["secret"]
    body = {"messages": PROMPT, "answers": ["yes"], "heads": ["kind", "amber"]}
    assert refused(await post(server, body, narrow), 403, "culture_not_allowed")["param"] == "heads[1]"
    assert (await post(server, {**body, "heads": ["kind"]}, narrow)).status_code == 200
    assert refused(await post(server, body, "nonsense"), 401, "invalid_api_key")


async def test_any_method_returns_the_scores_of_the_answer_it_gave(server: Running) -> None:
    for steering in ({"method": "none"}, {"cultures": {"amber": 1.0}}):
        answer = (await chat(server, {**steering, "reward_heads": ["kind", "terse"]}, n=2)).json()
        texts = [choice["message"]["content"] for choice in answer["choices"]]
        found = await scored(server, answers=texts)
        assert answer["steering"]["rewards"] == {k: v for k, v in found.items() if k != "usage"}
        assert answer["steering"]["timings_ms"]["scoring"] > 0
    plain = (await chat(server, {"method": "none"})).json()
    assert plain["steering"]["rewards"] == {}


async def test_a_stream_has_the_same_scores_in_its_last_chunk(server: Running) -> None:
    steering = {"cultures": {"amber": 1.0}, "reward_heads": ["kind"]}
    whole = (await chat(server, steering)).json()
    events = (await chat(server, steering, stream=True)).text.split("\n\n")
    assert events[-2] == "data: [DONE]"
    assert (
        json.loads(events[-3].removeprefix("data: "))["steering"]["rewards"] == whole["steering"]["rewards"]
    )


async def test_a_head_that_cannot_be_loaded_is_an_error_before_anything_is_written(fresh: Running) -> None:
    assert fresh.fake is not None and fresh.steer is not None
    head = fresh.steer.catalogue.snapshot.reward_heads["kind"]
    await fresh.steer.rewards._heads.evict(head.digest)
    fresh.fake.failing_digests.add(head.digest)
    response = await chat(fresh, {"method": "none", "reward_heads": ["kind"]}, stream=True)
    assert refused(response, 502, "engine_error")


async def test_a_stream_whose_scores_fail_ends_with_an_error(
    fresh: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fresh.fake is not None

    async def fail(texts: object) -> None:
        raise EngineError("the engine is dead")

    monkeypatch.setattr(fresh.fake, "score", fail)
    events = (await chat(fresh, {"method": "none", "reward_heads": ["kind"]}, stream=True)).text.split("\n\n")
    assert json.loads(events[-3].removeprefix("data: "))["error"]["code"] == "engine_error"
    assert events[-2] == "data: [DONE]"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_head_that_is_removed_while_an_answer_is_written_still_scores_it(
    fresh: Running, stream: bool
) -> None:
    assert fresh.fake is not None
    engine = fresh.fake
    engine.token_seconds = 0.02
    steering = {"method": "none", "reward_heads": ["kind"]}
    writing = asyncio.create_task(chat(fresh, steering, stream=stream, max_tokens=40))
    await until(lambda: engine.num_running)
    async with fresh.http() as http:
        assert (await http.delete("/v1/adapters/head-kind")).status_code == 200
    answer = await writing
    last = answer.text.split("\n\n")[-3].removeprefix("data: ") if stream else answer.text
    (scores,) = json.loads(last)["steering"]["rewards"]["scores"]
    assert scores["kind"]["raw"]
    # A stream gives its heads back behind its last byte.
    await until(lambda: len(engine.heads) == 2)
    assert engine.num_running == 0


async def test_heads_are_refused_where_there_is_no_conversation(server: Running) -> None:
    body = {"model": "fake", "prompt": "x", "steering": {"method": "none", "reward_heads": ["kind"]}}
    async with server.http() as http:
        response = await http.post("/v1/completions", json=body)
    assert refused(response, 400, "reward_heads_unavailable")["param"] == "steering.reward_heads"
    steering = {"method": "none", "reward_heads": ["kind"]}
    assert refused(await chat(server, steering, continue_final_message=True), 400, "reward_heads_unavailable")
    assert (await chat(server, steering, messages="hello")).json()["error"]["param"] == "messages"


async def test_a_swap_while_scoring_gives_every_answer_the_version_it_names(
    fresh: Running, base: BaseModel, tmp_path: Path
) -> None:
    """Two versions of one head are switched to and fro under requests; each score is its version's own."""
    raw_of = {"head-kind@1.0.0": (await scored(fresh, heads=["kind"]))["scores"]}
    random_head(tmp_path / "new", "head-kind", base, version="2.0.0", seed=2)
    assert (await push(fresh, tmp_path / "new" / "head-kind")).status_code == 201
    raw_of["head-kind@2.0.0"] = (await scored(fresh, heads=["kind"]))["scores"]
    assert raw_of["head-kind@1.0.0"] != raw_of["head-kind@2.0.0"]
    seen: list[str] = []
    is_over = False

    async def ask() -> None:
        while not is_over:
            found = await scored(fresh, heads=["kind"])
            (title,) = found["heads"].values()
            assert found["scores"] == raw_of[title]
            seen.append(title)
            # The acts share an event loop with all 32.
            await asyncio.sleep(0.5)

    async with asyncio.TaskGroup() as asking:
        for _ in range(32):
            asking.create_task(ask())
        for version in ("1.0.0", "2.0.0") * 2:
            assert (await act(fresh, f"head-kind/versions/{version}/activate")).status_code == 200
            await answered_by(f"head-kind@{version}", seen)
        is_over = True
    assert set(seen) == set(raw_of)
    assert fresh.fake is not None and fresh.steer is not None
    engine = fresh.fake
    assert engine.num_running == 0
    served = {h.digest for h in fresh.steer.catalogue.snapshot.reward_heads.values()}
    await until(lambda: engine.heads <= served)


async def test_scores_are_counted_by_head_and_origin_until_the_head_is_removed(fresh: Running) -> None:
    await scored(fresh)
    await chat(fresh, {"method": "none", "reward_heads": ["kind"]})
    assert num_scored(fresh) == {("kind", "request"): 3, ("terse", "request"): 3, ("kind", "answer"): 1}
    assert fresh.steer is not None and fresh.fake is not None
    loaded, digest = fresh.fake.heads, fresh.steer.catalogue.snapshot.reward_heads["kind"].digest
    assert digest in loaded
    await act(fresh, "head-kind/deactivate")
    response = await post(fresh, {"messages": PROMPT, "answers": ["yes"], "heads": ["kind"]})
    assert refused(response, 400, "unknown_reward_head")
    assert num_scored(fresh) == {("terse", "request"): 3}
    await until(lambda: digest not in loaded)


async def test_the_score_log_has_groups_and_versions_and_no_text(fresh: Running, tmp_path: Path) -> None:
    await chat(fresh, {"cultures": {"amber": 0.5}, "reward_heads": ["kind"]})
    await scored(fresh, heads=["terse"])
    text = (tmp_path / "scores.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) == 1 + len(ANSWERS)
    assert lines[0]["group"] == {"amber@1.0.0": 0.5} and lines[0]["method"] == "adapters"
    assert lines[0]["heads"]["kind"]["version"] == "head-kind@1.0.0"
    assert 0 < lines[0]["heads"]["kind"]["calibrated"] < 1
    assert lines[1]["group"] is None and lines[1]["heads"].keys() == {"terse"}
    assert "important" not in text


async def test_what_can_be_asked_for_names_the_heads(server: Running) -> None:
    async with server.http() as http:
        body = (await http.get("/v1/steering")).json()
        plan = {"method": "best_of_n", "reward_heads": ["kind"], "cultures": {"amber": 1}}
        planned = (await http.post("/v1/steering/plan", json={"steering": plan})).json()
    heads = {head["id"]: head for head in body["reward_heads"]}
    assert heads.keys() == {"amber", "kind", "terse"} and heads["amber"]["culture"] == "amber"
    assert heads["kind"]["adapter"] == "head-kind@1.0.0"
    assert "best_of_n" in body["methods"] and body["policy"]["max_candidates"] == 16
    assert planned["reward_heads"] == {"kind": "head-kind@1.0.0"} and planned["method"] == "best_of_n"


async def test_a_client_that_goes_away_leaves_nothing_running(fresh: Running) -> None:
    assert fresh.fake is not None and fresh.steer is not None
    engine, heads = fresh.fake, fresh.steer.rewards._heads
    engine.token_seconds = 120.0
    asking = asyncio.create_task(scored(fresh))
    await until(lambda: engine.num_running)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await until(lambda: not engine.num_running and not heads._num_users)
