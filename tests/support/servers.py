"""Servers for tests: the fake engine behind a real socket, and the real one, started as a user starts it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import uvicorn
import yaml
from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.responses import Response

from steer_server.app import attach, start
from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.service import STORE_FOLDER
from steer_server.engine.fake import FakeEngine
from steer_server.metrics import Metrics
from steer_server.settings import Settings
from steer_server.state import Server
from tests.support.adapters import random_adapter
from tests.support.heads import random_head
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
START_SECONDS = 600
NUM_SLOTS = 4

POLICY = {"value_floors": {"harmless": 0.2}, "denied_adapters": ["forbidden"], "max_adapters": 6}
PRESETS = {"gentle": {"values": {"helpful": 0.5, "harmless": 0.5}, "strength": 0.5}}


@dataclass
class Running:
    """A server that answers. `cultures` are those that a request may use."""

    url: str
    model: str
    cultures: list[str] = field(default_factory=list)
    fake: FakeEngine | None = None
    steer: Server | None = None
    """The app's own state, where it runs in this process."""
    key: str = "none"
    """What requests present unless a test says otherwise."""
    data: Path | None = None
    """Where a server in a process of its own keeps its catalogue."""

    @property
    def store(self) -> Path:
        """The directory of its store."""
        if self.steer is not None:
            return self.steer.catalogue.store.staging.parents[1]
        assert self.data is not None
        (found,) = self.data.glob(f"*/{STORE_FOLDER}")
        return found

    def client(self, **options: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1",
            **{"api_key": self.key, "max_retries": 0, "timeout": 300, **options},
        )

    def http(self, key: str | None = None) -> httpx.AsyncClient:
        """Args: key: instead of the usual one; empty for none."""
        key = self.key if key is None else key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.AsyncClient(base_url=self.url, timeout=300, headers=headers)

    async def read_cultures(self) -> None:
        async with self.http() as http:
            found = (await http.get("/v1/steering")).raise_for_status().json()["cultures"]
        self.cultures = [c["id"] for c in found]


def write_extras(folder: Path, base: BaseModel) -> dict[str, Path]:
    """Beside other adapters: a denied adapter and a broken one, and reward heads, one of which reads little;
    and a policy and presets, for adapters with the axes helpful and harmless."""
    random_head(folder, "head-warm", base)
    random_head(folder, "head-brief", base, max_tokens=8)
    random_adapter(folder, "forbidden", base)
    random_adapter(folder, "broken", base)
    weights = folder / "broken" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    files = {"policy": folder.parent / "policy.yaml", "presets": folder.parent / "presets.yaml"}
    files["policy"].write_text(yaml.safe_dump(POLICY))
    files["presets"].write_text(yaml.safe_dump(PRESETS))
    return files


@asynccontextmanager
async def fake_server(folder: Path, model_dir: Path, **engine_options: Any) -> AsyncIterator[Running]:
    """The real app on a FakeEngine, over a real socket."""
    settings = Settings(model=str(model_dir), served_model_name="fake", max_wait_seconds=60, bank_rank=8)
    base = BaseModel.of(settings)
    adapters = folder / "adapters"
    for name in ("amber", "blue", "coral", "denim", "ebony", "fern"):
        random_adapter(adapters, name, base)
    random_adapter(adapters, "compass", base, axes=["helpful", "harmless"])
    files = write_extras(adapters, base)
    settings = settings.model_copy(update={"adapters": adapters, "data": folder / "data", **files})
    async with app_server(settings, **engine_options) as running:
        yield running


@asynccontextmanager
async def app_server(
    settings: Settings, *, key: str = "none", port: int = 0, **engine_options: Any
) -> AsyncIterator[Running]:
    """The same with settings of one's own, which name the data folder. Args: port: 0 for a free one."""
    engine = FakeEngine(num_slots=NUM_SLOTS, **engine_options)
    registry = CollectorRegistry()
    app = FastAPI()
    attach(app)
    app.add_api_route("/metrics", _metrics_page(registry))
    app.add_api_route("/health", lambda: Response())  # vLLM's own
    steer = await start(app.state, engine, settings, Metrics(registry))
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    running = Running(url, "fake", fake=engine, steer=steer, key=key)
    while not server.started:
        await asyncio.sleep(0.01)
    await running.read_cultures()
    try:
        yield running
    finally:
        server.should_exit = True
        await serving
        await steer.catalogue.close()


def _metrics_page(registry: CollectorRegistry) -> Callable[[], Response]:
    def page() -> Response:  # not async: in another thread than the requests, as vLLM's
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return page


@contextmanager
def live_server(folder: Path, adapters: Path, *arguments: str, model: str = "smollm2") -> Iterator[Running]:
    """`make serve`, until it is ready; its output goes to `folder/server.log`."""
    port = free_port()
    make = ["make", "-C", str(ROOT), "serve", f"PORT={port}", f"ADAPTERS={adapters}"]
    with _serving([*make, f"ARGS={' '.join(arguments)}"], port, folder, model) as (running, _):
        yield running


LEAST_OPTIONS = (
    # As little as a start can cost, and sums that do not depend on what else is in the batch.
    "--enforce-eager",
    "--dtype=float32",
    "--max-model-len=256",
    "--max-num-seqs=8",
    "--kv-cache-memory-bytes=16M",
    "--bank-slots=4",
    "--bank-rank=8",
)
"""Of a supervised server with a tiny model."""
VLLM_PROCESS = "VLLM::"
"""How vLLM begins the names of its processes: the engine's, and then its workers'."""


@contextmanager
def supervised_server(
    folder: Path, *arguments: str, port: int | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[Running, psutil.Popen]]:
    """`steer-server serve` without make around it, and its process, as a supervisor has it. Started again in
    the same folder it goes on with the same data. None of its processes is left at the end.

    Args:
        environment: variables beside this process's own.
    """
    port = port or free_port()
    program = Path(sys.executable).with_name("steer-server")
    command = [str(program), "serve", f"--port={port}", *arguments]
    with _serving(command, port, folder, "", environment) as started:
        yield started


@contextmanager
def _serving(
    command: list[str],
    port: int,
    folder: Path,
    model: str,
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple[Running, psutil.Popen]]:
    folder.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{port}"
    log_path = folder / "server.log"
    own = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "ARGS")}
    # More adapters than slots take turns, which takes long on a machine that does other things too.
    waits = {"STEER_MAX_WAIT_SECONDS": "300"}
    whole = {**own, "STEER_DATA": str(folder / "data"), **waits, **(environment or {})}
    with log_path.open("a") as log:
        process = psutil.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=whole, start_new_session=True
        )
    try:
        _wait_until_ready(url, process, log_path)
        yield Running(url, model, data=folder / "data"), process
    finally:
        _signal_group(process, signal.SIGTERM)
        with suppress(psutil.TimeoutExpired):
            process.wait(30)
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: psutil.Popen, number: int) -> None:
    with suppress(ProcessLookupError):  # all of it has ended
        os.killpg(process.pid, number)


def _wait_until_ready(url: str, process: psutil.Popen, log_path: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/ready", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if process.poll() is not None:
            break
        time.sleep(1)
    raise RuntimeError(f"the server did not start:\n{log_path.read_text()[-4000:]}")


def shipped_adapters(folder: Path) -> Path:
    """A copy of the shipped adapters, to add others to."""
    for manifest in sorted((ROOT / "adapters").glob("*/adapter.yaml")):
        shutil.copytree(manifest.parent, folder / manifest.parent.name)
    return folder
