"""`bench overhead` on the real app with the FakeEngine, which stands for both servers."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from steer_server.errors import EvaluationError
from steer_server.evaluation.html import write_all
from steer_server.evaluation.overhead.asking import WAYS, Asker, Load, distinct_blend
from steer_server.evaluation.overhead.overhead import (
    OverheadOptions,
    evaluate_overhead,
    formula_bytes,
    run_overhead,
)
from steer_server.evaluation.overhead.planning_cost import STEPS, measure_planning
from steer_server.evaluation.overhead.report import MAX_ADDED_MIB, sections, tables, verdicts
from steer_server.evaluation.overhead.servers import OURS, STOCK, MeasuredServer
from steer_server.settings import Settings
from steer_server.steering.plan import build_plan
from steer_server.steering.policy import Policy
from steer_server.steering.spec import SteeringSpec
from tests.support.adapters import TINY, random_adapter, tiny_base_model
from tests.support.servers import Running


@pytest.fixture
def measured(fake: Running) -> MeasuredServer:
    return MeasuredServer(OURS, fake.url, fake.model, psutil.Process(), engine=())


def asker(fake: Running, measured: MeasuredServer) -> Asker:
    return Asker(measured, Load(fake.model, fake.cultures[:4], num_tokens=2, concurrency=3))


async def test_it_measures_every_way_and_memory_over_plans(
    fake: Running, measured: MeasuredServer, tmp_path: Path
) -> None:
    assert fake.steer is not None and fake.fake is not None
    servers = {STOCK: replace(measured, name=STOCK), OURS: measured}
    options = OverheadOptions(
        rounds=2, requests=6, concurrency=3, num_tokens=2, plans=40, idle_seconds=0.1, planning_rounds=20
    )
    results = await run_overhead(options, servers, fake.cultures[:4])
    assert list(results["cpu"]) == [way.label for way in WAYS]
    assert all(len(row["all_api_ms"]) == 2 for row in results["cpu"].values())
    assert results["plans"]["plans"] == results["plans"]["done"][-1] == 40
    assert all(trend is not None for trend in results["plans"]["trends"].values())
    results["bank"]["formula_bytes"] = results["bank"]["bytes"]
    results["planning"] = measure_planning(fake.steer.catalogue.snapshot, 20)
    results["server"] = {}
    found = {verdict.name: verdict.is_shown for verdict in verdicts(results)}
    assert found["api_memory"] and found["bank_bytes"]
    write_all(tmp_path, "Overhead", results, sections(results), tables(results))
    assert json.loads((tmp_path / "report.json").read_text())["cpu"]
    assert fake.fake.num_running == 0


async def test_a_report_is_written_before_what_is_not_shown_ends_it(
    fake: Running,
    measured: MeasuredServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The FakeEngine's bank has no bytes, which is not what the formula says of the model's shapes."""
    # How long planning took is not for a test to judge.
    monkeypatch.setattr("steer_server.evaluation.overhead.report.TARGET_US", 1e9)
    stopped = False

    @contextmanager
    def start(
        settings: Settings, arguments: Sequence[str], logs: Path
    ) -> Iterator[dict[str, MeasuredServer]]:
        nonlocal stopped
        yield {STOCK: replace(measured, name=STOCK), OURS: measured}
        stopped = True

    base = tiny_base_model(tmp_path / TINY)
    for name in ("amber", "blue"):
        random_adapter(tmp_path / "adapters", name, base)
    settings = Settings(model=base.path, adapters=tmp_path / "adapters")
    options = OverheadOptions(
        rounds=1, requests=2, concurrency=1, num_tokens=1, plans=0, idle_seconds=0.1, planning_rounds=20
    )
    with pytest.raises(EvaluationError, match="not shown: bank_bytes"):
        await asyncio.to_thread(
            evaluate_overhead, options, settings, ["--max-model-len", "512"], tmp_path / "out", start
        )
    assert stopped
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["server"]["vllm_arguments"] == ["--max-model-len", "512"]
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told == {"api_memory": True, "bank_bytes": False, "flat_over_plans": None, "planning": True}


async def test_requests_that_share_a_plan_end_it(fake: Running, measured: MeasuredServer) -> None:
    with pytest.raises(EvaluationError, match="2 blends gave 1 new plans"):
        await asker(fake, measured).measure([5, 5], is_steered=True, is_streamed=False)


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_request_that_is_refused_ends_it(measured: MeasuredServer, is_streamed: bool) -> None:
    unknown = Asker(measured, Load(measured.model, ["amber", "nobody"], 2, 1))
    with pytest.raises(EvaluationError, match=r"400.*nobody"):
        await unknown.measure([0], is_steered=True, is_streamed=is_streamed)


@pytest.mark.parametrize("num_cultures", [2, 3, 4])
def test_every_number_is_a_plan_of_its_own(fake: Running, num_cultures: int) -> None:
    assert fake.steer is not None
    catalogue, cultures = fake.steer.catalogue.snapshot, fake.cultures[:num_cultures]
    # Both ends of the range; the second weight grows in each.
    numbers = itertools.chain(range(1200), range(399_000, 400_000))
    digests = [
        build_plan(SteeringSpec(distinct_blend(cultures, number)), catalogue, Policy()).digest
        for number in numbers
    ]
    assert len(set(digests)) == len(digests) == 2200


def test_planning_is_timed_step_by_step(fake: Running) -> None:
    """By a clock that goes on by 2 µs whenever it is looked at."""
    assert fake.steer is not None
    ticks = itertools.count(step=2000)
    found = measure_planning(fake.steer.catalogue.snapshot, 10, clock_ns=lambda: next(ticks))
    assert list(found["by_adapters"])[:2] == ["1", "3"]
    for times in found["by_adapters"].values():
        assert all(times[step] == {"p50": 2.0, "p99": 2.0} for step in STEPS)
        assert times["all"] == {"p50": 2.0 * len(STEPS), "p99": 2.0 * len(STEPS)}


def test_the_formula_is_that_of_the_models_shapes(tmp_path: Path) -> None:
    base = tiny_base_model(tmp_path / TINY)
    per_rank = sum(out + into for out, into in base.linear_shapes.values())
    assert formula_bytes(base, {"slots": 3, "rank": 4, "copies": 2}) == 2 * 2 * 3 * 4 * per_rank


def test_what_is_not_shown_is_told_apart_from_what_cannot_be_told() -> None:
    def judged(**changed: Any) -> dict[str, bool | None]:
        trend = {"growth": 0.1, "noise": 0.2, "is_flat": True}
        results: dict[str, Any] = {
            "memory": {"after_rounds": {STOCK: {"API": 800.0}, OURS: {"API": 900.0}}},
            "bank": {"bytes": 100, "formula_bytes": 100},
            "plans": {"plans": 10, "trends": {"API": trend, "engine": trend}},
            "planning": {"by_adapters": {"1": {"all": {"p50": 40.0, "p99": 90.0}}}},
        }
        return {verdict.name: verdict.is_shown for verdict in verdicts(results | changed)}

    assert set(judged().values()) == {True}
    heavy = {STOCK: {"API": 800.0}, OURS: {"API": 801.0 + MAX_ADDED_MIB}}
    assert judged(memory={"after_rounds": heavy})["api_memory"] is False
    assert judged(bank={"bytes": 101, "formula_bytes": 100})["bank_bytes"] is False
    assert judged(plans=None)["flat_over_plans"] is None
    assert judged(plans={"plans": 3, "trends": {"API": None, "engine": None}})["flat_over_plans"] is None
    leak = {"growth": 9.0, "noise": 0.1, "is_flat": False}
    assert judged(plans={"plans": 10, "trends": {"API": leak}})["flat_over_plans"] is False
    slow = {"8": {"all": {"p50": 301.0, "p99": 400.0}}}
    assert judged(planning={"by_adapters": slow})["planning"] is False
