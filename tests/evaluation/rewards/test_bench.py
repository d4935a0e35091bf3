"""`bench rewards` on the real app with the FakeEngine, judged by a head of a model of two layers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from steer_server.errors import EvaluationError
from steer_server.evaluation.html import write_all
from steer_server.evaluation.rewards.choice import CLIENT, REFERENCE, SERVER, WAYS
from steer_server.evaluation.rewards.report import sections, tables
from steer_server.evaluation.rewards.rewards import RewardsOptions, run_rewards
from steer_server.evaluation.samples import Sampling
from steer_server.settings import Settings
from tests.evaluation.conftest import JudgesPlace
from tests.support.servers import Running, app_server


@pytest.fixture
async def server(place: JudgesPlace, tmp_path: Path) -> AsyncIterator[Running]:
    settings = Settings(
        model=place.base.path,
        served_model_name="fake",
        bank_rank=8,
        adapters=place.shipped,
        data=tmp_path / "data",
        admin_key=SecretStr("admin"),
    )
    async with app_server(settings, key="admin") as running:
        yield running


def options(server: Running, place: JudgesPlace, **changed: object) -> RewardsOptions:
    given = {
        "url": server.url,
        "data": place.data,
        "judges": place.judges,
        "shipped": place.shipped,
        "key": "admin",
        "head": "polite",
        "answers": 6,
        "more_heads": 2,
        "rounds": 2,
        "prompts": 5,
        "sampling": Sampling(max_tokens=8),
        "concurrency": 2,
        **changed,
    }
    return RewardsOptions(**given)  # type: ignore[arg-type]


async def test_it_measures_cost_and_choice_and_leaves_nothing_behind(
    server: Running, place: JudgesPlace, tmp_path: Path
) -> None:
    assert server.steer is not None and server.fake is not None
    before = set(server.steer.catalogue.snapshot.reward_heads)
    results = await run_rewards(options(server, place), place.base, place.settings.cache)
    assert set(results["cost"]["seconds"]) == {"prefill", "scoring", "scoring, more heads"}
    assert all(len(times) == 2 for times in results["cost"]["all_seconds"].values())
    ways = results["choice"]["ways"]
    assert tuple(ways) == WAYS and set(results["choice"]["against_one"]) == set(WAYS[1:])
    # The best of several is at least as good as the first of them, which the fake gives as the plain answer.
    assert ways[SERVER]["mean_score"] == ways[CLIENT]["mean_score"] >= ways[REFERENCE]["mean_score"]
    assert ways[SERVER]["mean_tokens"] == 4 * ways[REFERENCE]["mean_tokens"]
    for row in results["choice"]["against_one"].values():
        assert row["win"] + row["tie"] + row["lose"] == 5
    assert set(server.steer.catalogue.snapshot.reward_heads) == before
    write_all(tmp_path / "out", "Reward heads", results, sections(results), tables(results))
    assert json.loads((tmp_path / "out" / "report.json").read_text())["headline"]
    await asyncio.sleep(0)
    assert server.fake.num_running == 0


async def test_a_head_that_is_not_served_ends_it(server: Running, place: JudgesPlace) -> None:
    async with server.http() as http:
        assert (await http.post("/v1/adapters/head-polite/deactivate")).status_code == 200
    with pytest.raises(EvaluationError, match="Unknown reward head"):
        await run_rewards(options(server, place), place.base, place.settings.cache)
