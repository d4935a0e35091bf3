"""The alerts: checked and tested by promtool, complete for whoever is paged, and about metrics that exist."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import steer_server.metrics as metrics
from steer_server.metrics.requests import FIRST_TOKEN_BUCKETS
from tests.deploy.conftest import Watched
from tests.support.adapters import TINY
from tests.support.prometheus import FOLDER, promtool, scraping
from tests.support.servers import LEAST_OPTIONS, VLLM_PROCESS, Running, supervised_server
from tests.support.tiny_model import FOR_VLLM, tiny_model_with_weights

RULES = sorted((FOLDER / "rules").glob("*.yml"))
TESTS = sorted((FOLDER / "tests").glob("*.yml"))


def rules() -> list[dict[str, Any]]:
    documents = [yaml.safe_load(path.read_text()) for path in RULES]
    return [rule for document in documents for group in document["groups"] for rule in group["rules"]]


DOWN = 'ALERTS{alertname=~"SteerServerDown|SteerEngineDown",alertstate="firing"}'
ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
EXPRESSIONS = "\n".join(rule["expr"] for rule in rules())


def names_in_rules(prefix: str) -> set[str]:
    """Without the suffixes of histograms' parts."""
    found = re.findall(rf"\b{prefix}\w+(?=[{{\[ )]|$)", EXPRESSIONS, re.MULTILINE)
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in found}


def test_promtool_accepts_configuration_and_rules() -> None:
    promtool("check", "config", "--syntax-only", "prometheus.yml")
    promtool("check", "rules", *map(str, RULES))


def test_each_alert_fires_in_its_world_and_none_in_a_quiet_one() -> None:
    promtool("test", "rules", *map(str, TESTS))


def test_every_alert_has_a_world_in_which_it_fires() -> None:
    worlds = [world for path in TESTS for world in yaml.safe_load(path.read_text())["tests"]]
    samples = [s for world in worlds for test in world["promql_expr_test"] for s in test["exp_samples"]]
    fired = {name for sample in samples for name in re.findall(r'alertname="(\w+)"', sample["labels"])}
    assert fired == ALERTS.keys()
    assert worlds[0]["name"] == "quiet"


def test_the_quiet_world_has_everything_that_alerts_ask_for() -> None:
    quiet = "\n".join(
        one["series"] for one in yaml.safe_load(TESTS[0].read_text())["tests"][0]["input_series"]
    )
    asked = names_in_rules("steer_") | names_in_rules("vllm:")
    assert {name for name in asked if name not in quiet} == set()


@pytest.mark.parametrize("name", ALERTS)
def test_whoever_is_paged_learns_what_happened_and_what_to_do(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert alert["annotations"].keys() == {"summary", "description", "runbook"}
    assert all(len(text) > 20 for text in alert["annotations"].values())


def test_the_rules_are_about_metrics_that_exist() -> None:
    documented = set(re.findall(r"^(steer_\w+)", metrics.__doc__ or "", re.MULTILINE))
    assert names_in_rules("steer_") and names_in_rules("steer_") <= documented
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    assert set(re.findall(r"\bsteer:\w+:\w+", EXPRESSIONS)) == recorded


def test_objectives_are_bounds_of_buckets_and_jobs_are_scraped() -> None:
    bounds = {float(bound) for bound in re.findall(r'le="([^"]+)"', EXPRESSIONS)}
    assert bounds and bounds <= set(FIRST_TOKEN_BUCKETS)
    jobs = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    assert set(re.findall(r'job="([^"]+)"', EXPRESSIONS)) == {job["job_name"] for job in jobs}


async def test_a_broken_adapter_fires_its_alert(watched: Watched) -> None:
    async with asyncio.timeout(120):
        while not await watched.prometheus.query(
            'ALERTS{alertname="SteerAdapterRefused",alertstate="firing",reason!="probe_failed"}'
        ):
            await asyncio.sleep(1)


@pytest.mark.engine
async def test_a_killed_engine_fires_an_alert(tmp_path: Path) -> None:
    """The server ends with its engine, so what tells of it is that nobody answers."""
    model = tiny_model_with_weights(tmp_path / TINY, **FOR_VLLM)
    with supervised_server(tmp_path / "served", "--model", str(model), *LEAST_OPTIONS) as (running, server):
        async with scraping(running.url, tmp_path) as prometheus, asyncio.timeout(240):
            while not await prometheus.query('up{job="steer-server"} == 1'):
                await asyncio.sleep(1)
            assert not await prometheus.query(DOWN)
            engine = next(
                one for one in server.children(recursive=True) if one.name().startswith(VLLM_PROCESS)
            )
            engine.kill()
            while not await prometheus.query(DOWN):
                await asyncio.sleep(1)


@pytest.mark.engine
async def test_the_engine_has_the_metrics_that_rules_ask_for(vllm: Running) -> None:
    async with httpx.AsyncClient(timeout=60) as http:
        page = (await http.get(f"{vllm.url}/metrics")).text
    families = set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))
    assert names_in_rules("vllm:") and names_in_rules("vllm:") <= families
