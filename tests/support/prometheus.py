"""A Prometheus of the tests' own, with the shipped configuration pointed at a server under test."""

from __future__ import annotations

import asyncio
import math
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from tests.support.ports import free_port
from tests.support.servers import ROOT

FOLDER = ROOT / "deploy" / "prometheus"
START_SECONDS = 60


def program(name: str) -> str:
    """`prometheus` or `promtool`. Fails the test when there is none."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"These tests run {name}: `apt-get install prometheus`, or `make prometheus`.")
    return found


def promtool(*arguments: str, given: str | None = None) -> str:
    """What it prints. Fails the test when it finds something wrong. Args: given: its input."""
    command = [program("promtool"), *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, cwd=FOLDER)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Prometheus:
    def __init__(self, url: str) -> None:
        self.url = url

    async def query(self, expr: str) -> list[dict[str, Any]]:
        """The samples of an instant query that are numbers. Fails the test when it is not PromQL."""
        async with httpx.AsyncClient(timeout=60) as http:
            answer = await http.post(f"{self.url}/api/v1/query", data={"query": expr})
        assert answer.status_code == 200, f"{expr}: {answer.text}"
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return [sample for sample in found if not math.isnan(float(sample["value"][1]))]


@asynccontextmanager
async def scraping(target_url: str, folder: Path) -> AsyncIterator[Prometheus]:
    """Scrapes the target every second, by the shipped configuration in all else, and evaluates its rules."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [urlsplit(target_url).netloc]}]
    config["rule_files"] = [str(FOLDER / "rules" / "*.yml")]
    del config["alerting"]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={urlsplit(url).netloc}",
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        async with httpx.AsyncClient() as http, asyncio.timeout(START_SECONDS):
            while not await _is_ready(http, url):
                assert process.poll() is None, (folder / "log").read_text()
                await asyncio.sleep(0.1)
        yield Prometheus(url)
    finally:
        process.terminate()
        process.wait(START_SECONDS)


async def _is_ready(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(f"{url}/-/ready")).status_code == 200
    except httpx.HTTPError:
        return False
