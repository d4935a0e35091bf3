"""Stock vLLM's own server and ours, started on one model to be compared: what their processes use."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.loader import load_directory, with_bank_size
from steer_server.catalogue.snapshot import Catalogue
from steer_server.errors import EvaluationError
from steer_server.settings import Settings, fresh_environment

STOCK, OURS = "vllm serve", "steer-server"
KV_CACHE_BYTES = 2**28
"""The cache's memory is touched as it is used; a small one is full soon, and what grows later is no cache."""
START_SECONDS = 600.0
STOP_SECONDS = 30.0


@dataclass(frozen=True)
class MeasuredServer:
    """A running server, and where to look for what it uses."""

    name: str
    url: str
    model: str
    api: psutil.Process
    """It has the HTTP part, and everything before and behind the engine."""
    engine: tuple[psutil.Process, ...]
    """Scheduler and workers: what `api` had started when it was ready."""

    def cpu_seconds(self) -> tuple[float, float]:
        """Used so far by the API process, and by the engine's. Raises: EvaluationError when one has ended."""
        return self._of_each(_cpu_seconds)

    def resident_bytes(self) -> tuple[float, float]:
        """Of the API process, and of the engine's together. What they share counts in each.

        Raises: EvaluationError when one has ended.
        """
        return self._of_each(lambda process: process.memory_info().rss)

    def _of_each(self, read: Callable[[psutil.Process], float]) -> tuple[float, float]:
        try:
            return read(self.api), sum(map(read, self.engine))
        except psutil.NoSuchProcess as error:
            raise EvaluationError(f"a process of {self.name} has ended: {error}") from error


def _cpu_seconds(process: psutil.Process) -> float:
    used = process.cpu_times()
    return float(used.user + used.system)


def blended(settings: Settings) -> tuple[Settings, BaseModel, Catalogue]:
    """The settings with the bank's size, the model, and the adapters that requests blend.

    Raises: EvaluationError when there are fewer than two cultures.
    """
    settings = with_bank_size(settings)
    base = BaseModel.fetched(settings)
    catalogue, _ = load_directory(settings.adapters, base, settings.bank_rank)
    if len(catalogue.cultures) < 2:
        raise EvaluationError("blends are made of cultures; --adapters needs at least two")
    return settings, base, catalogue


StartServers = Callable[[Settings, Sequence[str], Path], AbstractContextManager[dict[str, MeasuredServer]]]
"""As `both_servers`."""


@contextmanager
def both_servers(
    settings: Settings, vllm_arguments: Sequence[str], logs: Path
) -> Iterator[dict[str, MeasuredServer]]:
    """Both, by name, as long as the block lasts. Each is started alone; both are up during the block.

    Args:
        settings: name the model, and the adapters that ours serves.
        vllm_arguments: that both get.
        logs: directory for what they print.

    Raises: EvaluationError when one does not start.
    """
    base = BaseModel.fetched(settings)
    common = (f"--kv-cache-memory-bytes={KV_CACHE_BYTES}", *vllm_arguments)
    most = f"--max-num-seqs={settings.max_num_seqs}"
    with ExitStack() as stack:
        data = stack.enter_context(tempfile.TemporaryDirectory())
        ours = [f"--model={settings.model}", f"--adapters={settings.adapters}", f"--data={data}"]
        stock = [f"--model={base.path}", f"--served-model-name={base.served_name}"]
        commands = {
            STOCK: ("/health", ["steer_server.engine.stock_server", *stock]),
            OURS: ("/ready", ["steer_server", "serve", *ours]),
        }
        servers = {}
        for name, (path, command) in commands.items():
            port = _free_port()
            given = [sys.executable, "-m", *command, "--host=127.0.0.1", f"--port={port}", most, *common]
            log = logs / f"{name.replace(' ', '-')}.log"
            process = stack.enter_context(_running(given, log, fresh_environment(settings.cache)))
            url = f"http://127.0.0.1:{port}"
            _wait_until(f"{url}{path}", process, log)
            servers[name] = MeasuredServer(
                name, url, base.served_name, process, tuple(process.children(recursive=True))
            )
        yield servers


@contextmanager
def _running(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Iterator[psutil.Popen]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as written:
        process = psutil.Popen(command, stdout=written, stderr=subprocess.STDOUT, env=environment)
    try:
        yield process
    finally:
        # With those that it started: an engine may outlive its server.
        everyone = [process, *process.children(recursive=True)] if process.is_running() else [process]
        if process.poll() is None:
            process.terminate()
        for left in psutil.wait_procs(everyone, STOP_SECONDS)[1]:
            left.kill()
        process.wait()


def _wait_until(url: str, process: psutil.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise EvaluationError(f"a server did not start:\n{log.read_text()[-3000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
