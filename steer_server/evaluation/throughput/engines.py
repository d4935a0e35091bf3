"""The engines of `bench throughput`: each in a process of its own, all up at once, asked in turns.

Started one after the other; a device must have room for all of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from steer_server.builtin_model import ensure_builtin
from steer_server.engine.bench_worker import ANSWER_PREFIX, ENGINE_OF, READY, WORKLOADS
from steer_server.errors import EvaluationError
from steer_server.progress import Progress
from steer_server.settings import Settings, engine_log_level

STOP_SECONDS = 30.0

Seconds = tuple[float, float]
"""(t1, tN), see `engine/bench_worker.py`."""
Measure = Callable[[str, int, int], Seconds]
"""(workload, batch, N) -> seconds. Raises: EvaluationError when the engine has died."""


@contextmanager
def running_engines(settings: Settings, most: int, logs: Path) -> Iterator[Measure]:
    """Args:
        most: largest batch.
        logs: directory for what the engines print.

    Raises: EvaluationError when one does not start.
    """
    ensure_builtin(settings.cache)
    with ExitStack() as stack:
        engines = {}
        with Progress("starting", len(WORKLOADS), "engines") as progress:
            for name in WORKLOADS:
                engines[name] = stack.enter_context(_engine(name, str(settings.adapters), most, logs))
                progress.advance(note=name)

        def measure(workload: str, batch: int, num_tokens: int) -> Seconds:
            first, last = json.loads(engines[ENGINE_OF[workload]].ask([workload, batch, num_tokens]))
            return first, last

        yield measure


class _Engine:
    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log

    def ask(self, question: object) -> str:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # then its answer is missing too
            print(json.dumps(question), file=self._process.stdin, flush=True)
        return self.answer()

    def answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(ANSWER_PREFIX):
                return line.removeprefix(ANSWER_PREFIX).strip()
        raise EvaluationError(f"an engine has ended:\n{self._log.read_text()[-3000:]}")


@contextmanager
def _engine(name: str, adapters: str, most: int, logs: Path) -> Iterator[_Engine]:
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{name}.log"
    command = [sys.executable, "-m", "steer_server.engine.bench_worker", name, adapters, str(most)]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=engine_log_level("ERROR"),
        ) as process,
    ):
        try:
            engine = _Engine(process, log)
            if engine.answer() != READY:
                raise EvaluationError(f"{name} began with something else")
            yield engine
        finally:
            assert process.stdin is not None
            process.stdin.close()  # which ends it
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
