"""The dashboards: what the code generates, by rules that readers rely on; their queries find something."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana.source.__main__ import FOLDER, documents
from tests.deploy.conftest import Watched
from tests.deploy.load import answer_requests
from tests.support.prometheus import Prometheus, scraping
from tests.support.servers import ROOT, Running

VARIABLES = {"$__rate_interval": "1m", "$job": ".*", "$instance": ".*"}
OF_THE_ENGINE = re.compile(r"\b(vllm:|process_)")
"""Metrics that a server on FakeEngine has not: its panels are asked for on the real one."""
OF_THE_FAKE = re.compile(
    r"steer_(upstream|rewrite|denoising|.*_failures|.*_act_|probe|adapter_slot_loads|request_errors|key_)|outcome=~\"failed"
)
"""What the load of the real engine's test does not bring about; the fake's does all of it."""
PATIENCE_SECONDS = 240
COUNTER = re.compile(r"\w+_total\b")


@dataclass(frozen=True)
class Query:
    board: str
    panel: str
    expr: str

    @property
    def filled(self) -> str:
        expr = self.expr
        for name, value in VARIABLES.items():
            expr = expr.replace(name, value)
        assert "$" not in expr, expr
        return expr


def boards() -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def panels(board: Any) -> Iterator[Any]:
    for panel in board["panels"]:
        yield from panel.get("panels") or []
        if panel["type"] != "row":
            yield panel


QUERIES = [
    Query(name, panel["title"], target["expr"])
    for name, board in boards().items()
    for panel in panels(board)
    for target in panel["targets"]
]


def test_the_committed_dashboards_are_what_the_code_generates() -> None:
    committed = {path: path.read_text() for path in FOLDER.glob("*.json")}
    assert committed == documents(), "run `make dashboards`"


def test_every_dashboard_can_be_read_and_nobody_edits_it() -> None:
    for name, board in boards().items():
        assert board["uid"] == f"steer-{name}" and board["description"] and not board["editable"]
        assert [one["name"] for one in board["templating"]["list"]] == ["datasource", "job", "instance"]
        titles = [panel["title"] for panel in panels(board)]
        assert len(titles) == len(set(titles))
        for panel in panels(board):
            assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            for part in (panel, *panel["targets"]):
                assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: f"{query.board}: {query.panel}")
def test_every_query_keeps_to_the_chosen_servers_and_to_rates_of_counters(query: Query) -> None:
    selectors = re.findall(r"[a-z][a-z_:0-9]*\{[^}]*\}", query.expr)
    assert selectors and all('job=~"$job",instance=~"$instance"' in selector for selector in selectors)
    for found in COUNTER.finditer(query.expr):
        # A histogram may be called so too.
        if not re.match(r"_(bucket|sum|count)", query.expr[found.end() :]):
            before = query.expr[: found.start()]
            assert re.search(r"(rate|increase)\([a-z:]*$", before), query.expr
    assert not re.search(r"\[(?!\$__rate_interval\])", query.expr)


def test_what_grafana_is_provisioned_with_is_there() -> None:
    folder = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((folder / "dashboards" / "steer.yaml").read_text())["providers"]
    assert source["type"] == "prometheus" and provider["type"] == "file"
    scrape = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == scrape["scrape_interval"]


async def without_data(prometheus: Prometheus, queries: list[Query]) -> list[Query]:
    """Those that find nothing for as long as they are waited for."""
    waiting = list(queries)
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while waiting and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(2)
        waiting = [query for query in waiting if not await prometheus.query(query.filled)]
    return waiting


async def test_every_panel_about_steering_shows_something(watched: Watched) -> None:
    queries = [query for query in QUERIES if not OF_THE_ENGINE.search(query.expr)]
    assert len(queries) > 60
    assert await without_data(watched.prometheus, queries) == []


async def test_every_other_panel_is_promql(watched: Watched) -> None:
    for query in QUERIES:
        await watched.prometheus.query(query.filled)


@pytest.mark.engine
async def test_every_panel_shows_something_of_the_real_engine(vllm: Running, tmp_path: Path) -> None:
    """The load here brings about less than the fake's: no acts, failures or upstreams."""
    queries = [query for query in QUERIES if not OF_THE_FAKE.search(query.expr)]

    async def load() -> None:
        while True:
            await answer_requests(vllm, head="warm")

    async with scraping(vllm.url, tmp_path) as prometheus:
        loading = asyncio.create_task(load())
        try:
            assert await without_data(prometheus, queries) == []
        finally:
            loading.cancel()
