"""Our part of `/metrics` as Prometheus reads it."""

from __future__ import annotations

import re

import httpx
from prometheus_client import CollectorRegistry, generate_latest

import steer_server.metrics as module
from steer_server.metrics import Metrics
from steer_server.metrics.adapters import Outcome
from steer_server.steering.plan import AdapterGate, SteeringPlan
from tests.deploy.conftest import Watched
from tests.support.prometheus import promtool

NUM_ADAPTERS = 200
MAX_SERIES_PER_ADAPTER = 25


async def page(watched: Watched) -> str:
    async with httpx.AsyncClient(timeout=60) as http:
        return (await http.get(f"{watched.server.url}/metrics")).raise_for_status().text


async def test_promtool_finds_nothing_to_say_about_our_metrics(watched: Watched) -> None:
    ours = re.findall(r"^(?:# [A-Z]+ )?steer_.*\n", await page(watched), re.MULTILINE)
    promtool("check", "metrics", given="".join(ours))


async def test_the_list_is_what_is_on_the_page(watched: Watched) -> None:
    families = re.findall(r"^# TYPE (steer_\w+)", await page(watched), re.MULTILINE)
    documented = re.findall(r"^(steer_\w+)", module.__doc__ or "", re.MULTILINE)
    assert len(documented) == len(set(documented))
    assert set(documented) == {name for name in families if not name.endswith("_created")}


async def test_labels_are_the_documented_ones(watched: Watched) -> None:
    described = dict(re.findall(r"^(steer_\w+)\{([\w,]+)\}", module.__doc__ or "", re.MULTILINE))
    for name, labels in re.findall(
        r"^(steer_\w+?)(?:_bucket|_sum|_count)?\{(.*)\}", await page(watched), re.M
    ):
        if not name.endswith("_created"):
            found = {label for label in re.findall(r'(\w+)="', labels) if label != "le"}
            assert found == set(described[name].split(",") if name in described else ()), name


async def test_client_text_is_no_label(watched: Watched) -> None:
    """The load asks for a culture that does not exist."""
    assert "atlantis" not in await page(watched)


def test_many_adapters_have_few_series_each_and_none_when_they_are_gone() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    titles = [f"adapter-{i}@1.0.0" for i in range(NUM_ADAPTERS)]
    metrics.adapters.keep(titles)
    for title in titles:
        for outcome in Outcome:
            metrics.adapters.requests_total.labels(title, outcome).inc()
            metrics.adapters.note_load(title, outcome)
        metrics.adapters.first_token_seconds.labels(title).observe(1)
        metrics.adapters.output_token_seconds.labels(title).observe(1)
        metrics.adapters.duration_seconds.labels(title).observe(1)
        metrics.note_slot_wait(_plan(title), 1)
    assert num_series(registry, "adapter-") <= NUM_ADAPTERS * MAX_SERIES_PER_ADAPTER
    metrics.adapters.keep(titles[1:])
    assert num_series(registry, '"adapter-0@') == 0
    metrics.note_slot_wait(_plan(titles[0]), 1)
    assert num_series(registry, '"adapter-0@') == 0


def num_series(registry: CollectorRegistry, text: str) -> int:
    """Those with `text`, less when each began, which the shipped configuration drops."""
    lines = generate_latest(registry).decode().splitlines()
    return sum(text in line and "_created{" not in line for line in lines)


def _plan(title: str) -> SteeringPlan:
    name, version = title.split("@")
    return SteeringPlan("adapters", (AdapterGate(name, version, "d", 1.0),))
