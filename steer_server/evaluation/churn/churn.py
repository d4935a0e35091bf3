"""`bench churn`: a running server under streams while an operator pushes, switches and removes adapters.

    warm-up -> quiet (half) -> churn: `acts` acts -> quiet (half) -> every text again, under its version alone

The quiet phases lie on both sides, because machines drift. What must be seen: no stream failed, every text is
that of the version which the answer names, tokens come nearly as evenly as without acts, and memory is flat.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from steer_server.errors import EvaluationError
from steer_server.evaluation.churn.acts import ActFailed, Operator
from steer_server.evaluation.churn.packages import VERSIONS, ChurnedPackage, make_packages
from steer_server.evaluation.churn.streams import Load
from steer_server.evaluation.churn.texts import CheckedTexts, check_texts
from steer_server.evaluation.churn.timeline import Timeline
from steer_server.evaluation.client import ServerClient, ServerInfo
from steer_server.evaluation.report import commit
from steer_server.evaluation.server_memory import MemorySampler, find_processes, numbers_in_use
from steer_server.evaluation.streaming import http_client
from steer_server.evaluation.verdicts import check_shown
from steer_server.progress import Progress

ADMIN_SECONDS = 600.0
"""Removing waits for running requests; activating for a probe and for a free slot."""
ADMIN_CONNECTIONS = 1
QUIET, CHURN = "quiet", "churn"


@dataclass(frozen=True)
class ChurnOptions:
    """What is measured; `hang_seconds` without a byte are a hang."""

    url: str
    package: Path
    key: str = ""
    """Operator key; empty where the server asks for none."""
    streams: int = 32
    acts: int = 200
    names: int = 3
    """Churned adapters; each has two versions."""
    quiet_seconds: float = 60.0
    hang_seconds: float = 60.0
    seed: int = 20261121

    def describe(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if k not in ("key", "package", "url")}


@dataclass(frozen=True)
class ChurnRun:
    """What was found, for `churn_report`."""

    server: ServerInfo
    load: Load
    operator: Operator
    texts: CheckedTexts | None
    """None when a failed act ended the check."""
    memory: dict[str, Any] | None
    in_use: dict[str, tuple[float | None, float | None]]
    """What the server says, before anything was pushed and after everything was removed."""


async def run_churn(options: ChurnOptions, transport: httpx.AsyncBaseTransport | None = None) -> ChurnRun:
    """Runs it; whatever it pushed is removed again, also when it is interrupted.

    Args:
        transport: for tests.

    Raises: EvaluationError when the server or the package cannot be used.
    """
    commit()
    async with ServerClient(options.url, options.key) as client:
        server = await client.info()
    connect = partial(http_client, options.url, options.key, transport)
    async with connect(options.streams, options.hang_seconds) as http:
        before = await numbers_in_use(http)
        names = [f"churn-{uuid.uuid4().hex[:6]}-{number}" for number in range(options.names)]
        async with (
            connect(ADMIN_CONNECTIONS, ADMIN_SECONDS) as administration,
            pushed(options.package, names, administration, options.seed) as (operator, left),
        ):
            load = _load(options, server, http, operator)
            sampler = MemorySampler(find_processes(options.url), lambda: operator.num_acts)
            try:
                await _phases(options, load, operator, sampler)
                texts = await _check_texts(load, operator)
            finally:
                await load.cancel()
                await sampler.stop()
        load.phase = "end"
        for problem in left:
            load.fail("act", f"not removed: {problem}")
        after = await numbers_in_use(http)
    in_use = {key: (before.get(key), after.get(key)) for key in sorted(before | after)}
    return ChurnRun(server, load, operator, texts, sampler.describe(), in_use)


def evaluate_churn(options: ChurnOptions, out: Path) -> None:
    """Runs it, writes `report.json` and `report.html`, and prints the tables and one line of JSON.

    Raises: EvaluationError, after the report is written, when something that must never happen did; and as
        `run_churn`.
    """
    from steer_server.evaluation.churn.report import churn_results, verdicts, write_churn

    run = asyncio.run(run_churn(options))
    results = churn_results(run, options)
    write_churn(results, out, options.key)
    found = verdicts(results)
    print(json.dumps({verdict.name: verdict.is_shown for verdict in found}))
    check_shown(found, out)


@asynccontextmanager
async def pushed(
    package: Path, names: Sequence[str], http: httpx.AsyncClient, seed: int
) -> AsyncIterator[tuple[Operator, list[str]]]:
    """An operator with every version on the server and the first of each name active. At the end all is
    removed; what could not be is then in the list.

    Raises: EvaluationError when the package or the server cannot be used.
    """
    left: list[str] = []
    with tempfile.TemporaryDirectory(prefix="steer-churn-") as work:
        packages = await asyncio.to_thread(make_packages, package, names, Path(work))
    operator = Operator(http, Timeline(), packages, random.Random(seed))
    try:
        # The first version last: it stays.
        for one in sorted(packages, key=lambda one: one.version, reverse=True):
            await operator.bring(one)
        yield operator, left
    except ActFailed as error:
        raise EvaluationError(f"the server did not take the adapters: {error}") from error
    finally:
        left += await operator.remove_everything()


def _load(options: ChurnOptions, server: ServerInfo, http: httpx.AsyncClient, operator: Operator) -> Load:
    shipped = [culture.id for culture in server.cultures if culture.id != options.package.name]
    return Load(
        http=http,
        model=server.model,
        timeline=operator.timeline,
        names=operator.names,
        stable=shipped[0] if shipped else None,
        num_streams=options.streams,
        rng=random.Random(options.seed),
    )


async def _phases(options: ChurnOptions, load: Load, operator: Operator, sampler: MemorySampler) -> None:
    load.start()
    await load.warm()
    await _quiet(load, options.quiet_seconds / 2)
    sampler.start()
    load.phase = CHURN
    with Progress("churn", options.acts, "acts") as progress:
        for _ in range(options.acts):
            load.check()
            try:
                act = await operator.act_next()
            except ActFailed as error:
                load.fail("act", str(error))
                progress.advance(note=str(error)[:80])
            else:
                progress.advance(note=act.kind)
    for package in _first_versions(operator):
        try:
            await operator.bring(package)
        except ActFailed as error:
            load.fail("act", str(error))
    await _quiet(load, options.quiet_seconds / 2)
    load.phase = "end"
    await load.finish()
    await sampler.stop()


async def _quiet(load: Load, seconds: float) -> None:
    load.phase = QUIET
    await asyncio.sleep(seconds)
    load.check()


async def _check_texts(load: Load, operator: Operator) -> CheckedTexts | None:
    try:
        return await check_texts(load, operator, operator.packages)
    except ActFailed as error:
        load.fail("act", str(error))
        return None


def _first_versions(operator: Operator) -> list[ChurnedPackage]:
    return [package for package in operator.packages if package.version == VERSIONS[0]]
