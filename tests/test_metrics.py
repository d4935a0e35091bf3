"""What the gauges say while something runs, and that they say nothing of it afterwards."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from steer_server.engine.fake import FakeEngine
from steer_server.errors import CatalogueError, EngineError
from steer_server.metrics import Metrics
from steer_server.metrics.requests import InFlight
from steer_server.steering.plan import BASE_PLAN, AdapterGate, SteeringPlan
from tests.support.adapters import TINY, planned_catalogue, tiny_base_model
from tests.support.administration import PROMPT, act
from tests.support.servers import Running, fake_server


async def gauges(server: Running) -> dict[str, float]:
    """By name, and by `name adapter` where there is one."""
    async with server.http() as http:
        page = (await http.get("/metrics")).text
    return {
        " ".join([sample.name, *filter(None, [sample.labels.get("adapter")])]): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


async def test_gauges_follow_a_request_whose_adapter_is_quarantined_meanwhile(tmp_path: Path) -> None:
    tiny_base_model(tmp_path / TINY)
    async with (
        fake_server(tmp_path, tmp_path / TINY, token_seconds=0.02) as server,
        server.client() as client,
    ):
        before = await gauges(server)
        assert before["steer_adapter_requests_running amber@1.0.0"] == 0
        stream = await client.chat.completions.create(
            model=server.model,
            messages=PROMPT,  # type: ignore[arg-type]
            max_tokens=150,
            stream=True,
            extra_body={"steering": {"cultures": {"amber": 0.5, "blue": 0.5}}},
        )
        await anext(aiter(stream))
        running = await gauges(server)
        assert running["steer_plans_in_flight"] == running["steer_plans_distinct"] == 1
        assert running["steer_slot_leases"] == running["steer_slots_leased"] == 2
        assert running["steer_adapter_requests_running amber@1.0.0"] == 1
        assert running["steer_adapter_resident amber@1.0.0"] == 1
        assert running["steer_quarantined_requests_running"] == 0
        assert (await act(server, "amber/versions/1.0.0/quarantine")).status_code == 200
        barred = await gauges(server)
        assert barred["steer_quarantined_requests_running"] == 1
        assert barred["steer_adapter_requests_running amber@1.0.0"] == 1
        assert barred["steer_catalogue_revision"] == before["steer_catalogue_revision"] + 1
        assert barred["steer_adapters_active"] == before["steer_adapters_active"] - 1
        assert barred["steer_catalogue_database_age_seconds"] < 30
        async for _ in stream:
            pass
        async with asyncio.timeout(10):
            while (after := await gauges(server))["steer_plans_in_flight"]:
                await asyncio.sleep(0.05)
        assert after["steer_quarantined_requests_running"] == after["steer_slot_leases"] == 0
        assert not [name for name in after if "amber" in name]
        assert after["steer_adapter_requests_total blue@1.0.0"] == 1


async def test_the_engines_health_is_asked_for() -> None:
    registry, engine = CollectorRegistry(), FakeEngine()
    metrics = Metrics(registry)
    for is_dead in (False, True):
        engine.is_dead = is_dead
        asking = asyncio.create_task(metrics.keep_asking(engine))
        await asyncio.sleep(0.01)
        assert registry.get_sample_value("steer_engine_up") == float(not is_dead)
        asking.cancel()


def test_equal_plans_in_flight_are_one() -> None:
    def plan(weight: float) -> SteeringPlan:
        return SteeringPlan("adapters", (AdapterGate("amber", "1.0.0", "d", weight),))

    in_flight = InFlight()
    for one in (plan(0.5), plan(0.5), plan(0.6), BASE_PLAN):
        in_flight.add(one)
    assert sorted(num for _, num in in_flight.runs()) == [1, 2]
    for one in (plan(0.5), plan(0.6), BASE_PLAN):
        in_flight.remove(one)
    assert in_flight.runs() == [(plan(0.5), 1)]


def test_failures_are_counted_by_their_reason_and_not_timed() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    with pytest.raises(CatalogueError), metrics.lifecycle.probe("lora"):
        raise CatalogueError("amber", "probe_no_effect", "")
    with metrics.lifecycle.act("activate"):
        pass
    value = registry.get_sample_value
    assert value("steer_probe_failures_total", {"kind": "lora", "reason": "probe_no_effect"}) == 1
    assert value("steer_probe_seconds_count", {"kind": "lora"}) is None
    assert value("steer_adapter_act_seconds_count", {"act": "activate"}) == 1


def test_loads_into_slots_are_counted_by_how_they_ended() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    catalogue = planned_catalogue(["amber"])
    metrics.keep(catalogue)
    with metrics.slot_load(catalogue.cultures["amber"]):
        pass
    with pytest.raises(EngineError), metrics.slot_load(catalogue.cultures["amber"]):
        raise EngineError("no")
    for outcome in ("answered", "failed"):
        labels = {"adapter": "amber@1.0.0", "outcome": outcome}
        assert registry.get_sample_value("steer_adapter_slot_loads_total", labels) == 1
    assert registry.get_sample_value("steer_slot_load_seconds_count") == 2
