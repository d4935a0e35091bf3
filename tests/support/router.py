"""vllm-router as it is deployed, before servers under test; and servers to kill and to start again."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import httpx
import yaml

from steer_server.settings import Settings
from tests.support.kill_server import serve
from tests.support.kills import KEY
from tests.support.postgres import free_port
from tests.support.processes import warm_context
from tests.support.servers import ROOT, Running

PROGRAM = Path(sys.executable).with_name("vllm-router")
START_SECONDS = 300
"""Of a machine that does other things too."""
DISCOVERY = ("--service-discovery", "--selector", "--prometheus")
"""Options that need a cluster, and those of its own metrics, which these tests do not read."""


def deployed_options() -> list[str]:
    """As in deploy/kubernetes."""
    documents = yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "base" / "router.yaml").read_text())
    (deployment,) = (one for one in documents if one["kind"] == "Deployment")
    options: list[str] = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    return options


@asynccontextmanager
async def routing(urls: Sequence[str], folder: Path) -> AsyncIterator[str]:
    """The URL of a router before these servers, once it has found them all well."""
    port, metrics_port = free_port(), free_port()
    options = [option for option in deployed_options() if not option.startswith(DISCOVERY)]
    command = [str(PROGRAM), f"--port={port}", f"--prometheus-port={metrics_port}", *options]
    command += ["--worker-startup-check-interval=1", "--worker-urls", *urls]
    with (folder / "router.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient() as http, asyncio.timeout(START_SECONDS):
            while not await _answers(http, f"{url}/readiness"):
                assert process.poll() is None, (folder / "router.log").read_text()
                await asyncio.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(START_SECONDS)


async def _answers(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(url)).status_code == 200
    except httpx.HTTPError:
        return False


class Replica:
    """The real app on FakeEngine in a process of its own, whose port and data stay over starts."""

    def __init__(self, settings: Settings, token_seconds: float) -> None:
        self._settings, self._token_seconds = settings, token_seconds
        self.port = free_port()
        self.running = Running(f"http://127.0.0.1:{self.port}", "fake", key=KEY)
        self._process: BaseProcess | None = None

    async def start(self) -> None:
        """Returns when it answers."""
        context = warm_context()
        started, said = context.Pipe(duplex=False)
        options = {"port": self.port, "token_seconds": self._token_seconds}
        self._process = context.Process(target=serve, args=(self._settings, said), kwargs=options)
        self._process.start()
        said.close()
        assert await asyncio.to_thread(started.poll, START_SECONDS), "the replica does not start"
        started.recv()

    def kill(self) -> None:
        """At once, as a failing machine would."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None
