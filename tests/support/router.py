"""vllm-router as it is deployed, before servers under test; and servers to kill and to start again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import httpx
import psutil
import yaml

from tests.support.kills import KEY
from tests.support.ports import free_port
from tests.support.servers import ROOT, Running, supervised_server

PROGRAM = Path(sys.executable).with_name("vllm-router")
MODEL = "tiny"
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
    """The real server, whose port and data stay over starts."""

    def __init__(self, folder: Path, core: int, *arguments: str, environment: Mapping[str, str]) -> None:
        """Args: core: of the machine, which its engine has for itself."""
        self.port = free_port()
        self.running = Running(f"http://127.0.0.1:{self.port}", MODEL, key=KEY)
        self._folder, self._arguments = folder, (f"--served-model-name={MODEL}", *arguments)
        self._environment = {**environment, "STEER_ADMIN_KEY": KEY, "VLLM_CPU_OMP_THREADS_BIND": str(core)}
        self._served = ExitStack()
        self._process: psutil.Popen | None = None

    async def start(self) -> None:
        """Returns when it answers."""
        server = supervised_server(
            self._folder, *self._arguments, port=self.port, environment=self._environment
        )
        _, self._process = await asyncio.to_thread(self._served.enter_context, server)

    def kill(self) -> None:
        """All of it at once, as a failing machine would."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process = None
        self._served.close()
