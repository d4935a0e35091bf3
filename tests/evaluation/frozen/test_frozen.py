"""`eval frozen` on the real app with the FakeEngine and an upstream, judged by heads of a tiny model."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from steer_server.cli import app
from steer_server.errors import EvaluationError
from steer_server.evaluation.frozen.frozen import ANSWERS, FrozenOptions, run_frozen
from steer_server.evaluation.frozen.ways import ADAPTERS, ALIGN_PRO, NOISE, PLAIN, PROMPTED, SEARCH
from steer_server.evaluation.judge_prompts import prompts_for
from steer_server.evaluation.judges import read_judges
from steer_server.evaluation.samples import Sampling
from steer_server.frozen.prompter_template import prompter_messages
from steer_server.settings import Settings
from tests.evaluation.conftest import JudgesPlace
from tests.support.adapters import random_adapter
from tests.support.prompters import info
from tests.support.servers import Running, app_server
from tests.support.upstream import Exchange, HandmadeUpstream, completion, handmade_upstream

NUM_PROMPTS = 4
NUM_TOKENS = 40
BEST = "best of 3"
DIFFPO = "diffpo, statement, spans"
SENTENCES = "w01 w02 w57. w03 w04 w58. w05 w06 w60."


@dataclass
class World:
    """A server with the value axis and the prompter `helpful`, and an upstream beside it."""

    server: Running
    upstream: HandmadeUpstream
    place: JudgesPlace
    out: Path

    def options(self, **changed: Any) -> FrozenOptions:
        given = FrozenOptions(
            url=self.server.url,
            data=self.place.data,
            judges=self.place.judges,
            shipped=self.place.shipped,
            api_key="admin",
            values=("helpful",),
            candidates=3,
            prompts=NUM_PROMPTS,
            timed_prompts=0,
            sampling=Sampling(max_tokens=NUM_TOKENS),
        )
        return dataclasses.replace(given, **changed)

    async def results(self, **changed: Any) -> dict[str, Any]:
        options = self.options(**changed)
        results, _ = await run_frozen(options, self.place.base, self.place.settings.cache, self.out)
        return results

    def asked(self) -> list[Any]:
        """What the engine was asked since the last look."""
        assert self.server.fake is not None
        found, self.server.fake.asked = self.server.fake.asked, []
        return found

    @asynccontextmanager
    async def without(self, *names: str) -> AsyncIterator[None]:
        """Until the block ends these adapters are not active."""
        async with self.server.http() as http:
            for name in names:
                (await http.post(f"/v1/adapters/{name}/deactivate")).raise_for_status()
            try:
                yield
            finally:
                for name in names:
                    path = f"/v1/adapters/{name}/versions/1.0.0/activate"
                    (await http.post(path)).raise_for_status()


@pytest.fixture(scope="module")
async def served(
    place: JudgesPlace, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Running, HandmadeUpstream]]:
    folder = tmp_path_factory.mktemp("frozen")
    adapters = Path(shutil.copytree(place.shipped, folder / "adapters"))
    random_adapter(adapters, "values", place.base, axes=["helpful"])
    random_adapter(adapters, "clarity", place.base, prompter=info("helpful"))
    async with handmade_upstream() as upstream:
        settings = Settings(
            model=place.base.path,
            served_model_name="fake",
            bank_rank=8,
            adapters=adapters,
            data=folder / "data",
            admin_key=SecretStr("admin"),
            upstream={"up": upstream.url},
        )
        async with app_server(settings, key="admin") as server:
            assert server.fake is not None
            (judge,) = read_judges(place.judges, ("helpful",), place.base, place.shipped)
            for ((_, text),) in prompts_for(judge, place.data, place.shipped, 2, Sampling().seed).prompts:
                prompter = json.dumps(prompter_messages(text), sort_keys=True)
                server.fake.answers[prompter] = f"Please, {text}"
            yield server, upstream


@pytest.fixture
def world(served: tuple[Running, HandmadeUpstream], place: JudgesPlace, tmp_path: Path) -> World:
    return World(*served, place, tmp_path / "out")


@pytest.fixture(scope="module")
async def whole(
    served: tuple[Running, HandmadeUpstream], place: JudgesPlace, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The results of a run with all ways."""
    return await World(*served, place, tmp_path_factory.mktemp("whole")).results(timed_prompts=2)


def test_every_way_is_asked_judged_and_timed(whole: dict[str, Any]) -> None:
    (aim,) = whole["aims"].values()
    rows = aim["rows"]
    told = ["diffpo, statement, spans", "diffpo, axis, spans"]
    told += ["diffpo, statement, conflicts", "diffpo, axis, conflicts"]
    assert list(rows) == [PLAIN, NOISE, PROMPTED, SEARCH, BEST, ADAPTERS, ALIGN_PRO, *told]
    assert aim["missing"] == {} and aim["problems"] == {}
    for name, row in rows.items():
        assert row["answers"] == NUM_PROMPTS and row["failed"] == 0
        assert row["latency"]["timed"] == NUM_PROMPTS
        assert 0 < row["latency"]["p50_seconds"] <= row["latency"]["p95_seconds"]
        assert 0 <= row["judge_reward"]["mean"] <= 1 and 0 <= row["head_reward"]["mean"] <= 1
        assert name == PLAIN or row["against_plain"]["prompts"] == NUM_PROMPTS
        assert ("p95_over_best_of" in row["latency"]) == (name != BEST)
        assert ("against_draft" in row) == name.startswith("diffpo")
    # The fake knows no seeds: the same model says the same.
    assert rows[NOISE]["against_plain"]["tie"] == NUM_PROMPTS and rows[NOISE]["head_gain"]["mean"] == 0
    assert rows[ADAPTERS]["against_plain"]["tie"] < NUM_PROMPTS
    # The fake's first candidate is its plain answer, which is among a search's where no rewrite is usable.
    assert rows[BEST]["head_gain"]["mean"] >= 0
    assert rows[ALIGN_PRO]["against_search"]["prompts"] == NUM_PROMPTS
    assert whole["unknown_training"] == ["clarity@1.0.0 (not in adapters)", "values@1.0.0 (not in adapters)"]
    assert set(whole["headline"]["helpful"]) == set(rows)


def test_tokens_are_those_of_all_that_an_answer_took(whole: dict[str, Any]) -> None:
    rows = whole["aims"]["helpful"]["rows"]
    assert rows[PLAIN]["generated_tokens"] == NUM_TOKENS and rows[PLAIN]["prefilled_tokens"] == 1
    assert rows[BEST]["generated_tokens"] == 3 * NUM_TOKENS
    # Beside the prompt of one token the head reads each candidate with its conversation.
    assert rows[BEST]["prefilled_tokens"] > 1 + 3 * NUM_TOKENS
    # Two prompts have one usable rewrite, so answers to it and to the original; two have the original alone.
    assert rows[SEARCH]["usable_rewrites"] == 0.5
    assert rows[SEARCH]["generated_tokens"] > 1.5 * NUM_TOKENS
    assert rows[DIFFPO]["generated_tokens"] > NUM_TOKENS < rows[DIFFPO]["prefilled_tokens"]


def test_denoising_and_rewriting_are_described_as_the_server_reports_them(whole: dict[str, Any]) -> None:
    rows = whole["aims"]["helpful"]["rows"]
    denoising = rows[DIFFPO]["denoising"]
    assert sum(denoising["outcomes"].values()) == NUM_PROMPTS
    assert sum(denoising["candidates_by_guard"].values()) > 0
    against = rows[DIFFPO]["against_draft"]
    num_improved = denoising["outcomes"].get("improved", 0)
    assert against["tie"] >= NUM_PROMPTS - num_improved
    assert (against["of_changed"] or {"prompts": 0})["prompts"] == num_improved
    assert rows[ALIGN_PRO]["rewriting"]["outcomes"] == {"cut": 2, "rewritten": 2}
    assert rows[ALIGN_PRO]["rewriting"]["sent_share"] == 0.5
    rewriting = whole["rewriting"]
    assert (rewriting["prompts"], rewriting["not_rewritten"], rewriting["failed"]) == (2, 0, 0)
    assert rewriting["cached_ms"]["p50"] < rewriting["uncached_ms"]["p50"]
    assert rewriting["answer_tokens"] == 128 and rewriting["align_pro_over_plain"]["p50"] > 0


def test_all_targets_have_a_verdict(whole: dict[str, Any]) -> None:
    found = {target["what"]: target["is_met"] for target in whole["targets"]}
    assert len(found) == 1 + 4 * 3 + 2
    assert all(is_met is not None for is_met in found.values())


async def test_requests_have_the_seed_of_their_way_and_rewrites_are_not_those_of_another_run(
    world: World,
) -> None:
    world.asked()
    await world.results(only=(ALIGN_PRO,))
    seed = Sampling().seed
    bodies = [
        body for body, _ in world.asked() if "messages" in body and body.get("max_tokens") == NUM_TOKENS
    ]
    assert {body["seed"] for body in bodies} == {seed, seed + 1}
    assert sum(body["seed"] == seed for body in bodies) == NUM_PROMPTS + 1
    shutil.rmtree(world.out)
    again = await world.results(only=(ALIGN_PRO,))
    assert again["aims"]["helpful"]["rows"][ALIGN_PRO]["rewriting"]["outcomes"] == {"cut": 2, "rewritten": 2}


async def test_a_stopped_run_goes_on_where_it_was(world: World) -> None:
    ways = {"only": (BEST, ALIGN_PRO), "timed_prompts": 2}
    first = await world.results(**ways)
    lines = (world.out / ANSWERS).read_text().splitlines(keepends=True)
    assert len(lines) == 1 + NUM_PROMPTS + 2
    world.asked()
    again = await world.results(**ways)
    assert world.asked() == [] and again["aims"] == first["aims"] and again["rewriting"] == first["rewriting"]
    assert again["requests"]["prompts_answered_before"] == NUM_PROMPTS
    # Killed while the last prompt was written.
    (world.out / ANSWERS).write_text("".join(lines[:NUM_PROMPTS]) + lines[NUM_PROMPTS][:40])
    last = await world.results(only=(BEST, ALIGN_PRO))
    assert last["requests"]["prompts_answered_before"] == NUM_PROMPTS - 1
    wins = [one["aims"]["helpful"]["rows"][BEST]["against_plain"] for one in (first, last)]
    assert wins[0] == wins[1]


async def test_answers_of_another_run_are_not_mixed_in(world: World) -> None:
    await world.results(only=(BEST,))
    with pytest.raises(EvaluationError, match="a run with other ways; remove it"):
        await world.results()
    with pytest.raises(EvaluationError, match="a run with other sampling"):
        await world.results(only=(BEST,), sampling=Sampling(max_tokens=5))


async def test_an_upstreams_model_is_steered_in_the_ways_that_need_no_weights(world: World) -> None:
    async def behaviour(exchange: Exchange) -> None:
        body = exchange.body
        texts = [f"{SENTENCES} {len(body['messages'])} {i}" for i in range(body.get("n", 1))]
        choices = [
            {"index": i, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            for i, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": 7, "completion_tokens": 11 * len(texts), "total_tokens": 18}
        await exchange.reply(200, {**completion(), "choices": choices, "usage": usage})

    world.upstream.behaviour = behaviour
    ways = (PROMPTED, SEARCH, BEST, ALIGN_PRO, DIFFPO)
    results = await world.results(model="up/big", timed_prompts=1, only=ways)
    aim = results["aims"]["helpful"]
    assert results["model"] == "up/big"
    assert aim["missing"] == {ADAPTERS: "the weights are elsewhere"}
    rows = aim["rows"]
    assert rows[BEST]["generated_tokens"] == 33 and rows[PLAIN]["prefilled_tokens"] == 7
    denoising = rows[DIFFPO]["denoising"]
    assert rows[DIFFPO]["against_draft"]["of_changed"]["prompts"] == denoising["outcomes"]["improved"]
    # The fake's guard looked at the fake's numbers; the judges' model has read the answers itself.
    assert denoising["likelihood_change_worst"] != 0 and denoising["log_ratio_change"]["mean"] > 0
    assert rows[PROMPTED]["against_plain"]["tie"] == 0, "the statement is one message more"
    assert results["rewriting"]["align_pro_over_plain"] is None
    for exchange in world.upstream.received:
        assert not {"steering", "cache_salt", "ignore_eos"} & exchange.body.keys()
    with pytest.raises(EvaluationError, match="adapters does not work with an upstream's model"):
        await world.results(model="up/big", settings=('more={"values": {"helpful": 1}}',))


async def test_further_steering_is_compared_like_the_usual(world: World) -> None:
    spec = {"method": "diffpo", "values": {"helpful": 1}, "options": {"guidance": 2, "candidates": 8}}
    settings = (f"diffpo, strong={json.dumps(spec)}",)
    results = await world.results(settings=settings, only=("diffpo, strong",))
    rows = results["aims"]["helpful"]["rows"]
    assert list(rows) == [PLAIN, NOISE, "diffpo, strong"]
    assert rows["diffpo, strong"]["against_draft"]["prompts"] == NUM_PROMPTS
    assert {t["is_met"] for t in results["targets"] if "p95" in t["what"]} == {None}


async def test_a_way_that_does_not_work_ends_it_before_anything_is_measured(world: World) -> None:
    async with world.without("head-helpful"):
        with pytest.raises(EvaluationError, match=r"'best of 3' is refused.*Unknown reward head"):
            await world.results()
    with pytest.raises(EvaluationError, match=r"refused.*Unknown culture"):
        await world.results(settings=('amber={"cultures": {"amber": 1}}',))


async def test_a_server_without_axis_and_prompter_says_what_is_missing(world: World) -> None:
    async with world.without("values", "clarity"):
        results = await world.results(only=(BEST,))
    assert results["aims"]["helpful"]["missing"] == {
        ADAPTERS: "the server has no value axis helpful",
        ALIGN_PRO: "the server has no prompter helpful",
    }
    assert results["rewriting"] == {}
    found = {target["what"]: target["found"] for target in results["targets"]}
    assert found["helpful: align_pro, win rate against plain"] == "the server has no prompter helpful"
    assert {target["is_met"] for target in results["targets"]} == {None}


async def test_the_command_writes_reports_without_prompts_and_prints_the_headline_last(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEER_CACHE", str(world.place.settings.cache))
    command = ["eval", "frozen", "--url", world.server.url, "--judges", str(world.place.judges)]
    command += ["--data", str(world.place.data), "--adapters", str(world.place.shipped)]
    command += ["--judge-model", world.place.settings.model, "--out", str(world.out), "--api-key", "admin"]
    command += ["--value", "helpful", "--prompts", "2", "--timed-prompts", "1", "--max-tokens", "40"]
    command += [part for way in (BEST, SEARCH, ALIGN_PRO, DIFFPO) for part in ("--way", way)]
    command += ["--candidates", "3", "--statement", "helpful=Be of use.", "--concurrency", "2"]
    monkeypatch.setattr("sys.argv", ["steer-server", *command])
    result = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert result.exit_code == 0, result.output + repr(result.exception)
    report = json.loads((world.out / "report.json").read_text())
    assert json.loads(result.stdout.strip().splitlines()[-1]) == report["headline"]
    assert report["aims"]["helpful"]["statement"] == "Be of use."
    page = (world.out / "report.html").read_text()
    assert page.count("<svg") == 2 and "Targets" in page and "was trained on" in page
    for text in (page, json.dumps(report)):
        assert "ask 1" not in text and "Tell me" not in text
    assert not [tag for tag in ("<script", "<link", 'src="', 'href="http', "url(http") if tag in page]
