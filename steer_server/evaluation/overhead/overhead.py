"""`bench overhead`: what the HTTP part costs beside stock vLLM's own server: CPU time, memory, planning.

CPU      time of the API process per request: unsteered beside stock, and with a blend of its own per request
memory   of the API process beside stock's; the bank's bytes beside the formula; over many distinct plans
planning microseconds from `steering` to plan, digest and JSON, without a server
"""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from steer_server.catalogue.base_model import BaseModel
from steer_server.evaluation.html import write_all
from steer_server.evaluation.overhead.asking import WAYS, Asker, Cost, Load, Way
from steer_server.evaluation.overhead.planning_cost import measure_planning
from steer_server.evaluation.overhead.report import MAX_GROWTH_MIB, sections, tables, verdicts
from steer_server.evaluation.overhead.servers import OURS, MeasuredServer, StartServers, blended, both_servers
from steer_server.evaluation.report import commit
from steer_server.evaluation.server_memory import MIB, numbers_in_use
from steer_server.evaluation.trends import second_half
from steer_server.evaluation.verdicts import check_shown
from steer_server.progress import Progress
from steer_server.settings import Settings

PROCESSES = ("API", "engine")
NUM_LOOKS = 20
"""At memory, over all plans: enough to tell a trend in their second half."""


@dataclass(frozen=True)
class OverheadOptions:
    rounds: int = 5
    """Of all ways, interleaved; figures are medians."""
    requests: int = 200
    """Of each way in a round."""
    concurrency: int = 8
    num_tokens: int = 4
    """Of each answer: few, so that the HTTP part is much of the work."""
    plans: int = 10_000
    """Distinct ones of the memory's part, an answer of one token each."""
    idle_seconds: float = 10.0
    """Without any request, to see what each server uses for nothing."""
    planning_rounds: int = 5000


def evaluate_overhead(
    options: OverheadOptions,
    settings: Settings,
    vllm_arguments: Sequence[str],
    out: Path,
    start: StartServers = both_servers,
) -> None:
    """Starts both servers, measures, prints tables and one line of JSON, and writes `out/report.json` and
    `out/report.html`.

    Args:
        vllm_arguments: that both servers get.
        start: what starts them, and stops them when it ends.

    Raises: EvaluationError when a server does not start or answer, and, after the report is written, when
        something that is to be shown is not.
    """
    commit()
    settings, base, catalogue = blended(settings)
    planning = measure_planning(catalogue, options.planning_rounds)
    with start(settings, vllm_arguments, out) as servers:
        results = asyncio.run(run_overhead(options, servers, sorted(catalogue.cultures)))
    results["bank"]["formula_bytes"] = formula_bytes(base, results["bank"])
    results |= {
        "server": {"model": base.served_name, "vllm_arguments": list(vllm_arguments)},
        "planning": planning,
    }
    found = verdicts(results)
    results["verdicts"] = [asdict(verdict) for verdict in found]
    write_all(out, "What the HTTP part costs", results, sections(results), tables(results))
    print(json.dumps({verdict.name: verdict.is_shown for verdict in found}))
    check_shown(found, out)


async def run_overhead(
    options: OverheadOptions, servers: Mapping[str, MeasuredServer], cultures: Sequence[str]
) -> dict[str, Any]:
    """CPU time and memory of the two servers, which have done nothing yet. Raises: EvaluationError."""
    started = _resident_mib(servers)
    model = servers[OURS].model
    load = Load(model, cultures, options.num_tokens, options.concurrency)
    askers = {name: Asker(server, load) for name, server in servers.items()}
    costs: dict[Way, list[Cost]] = {way: [] for way in WAYS}
    with Progress("CPU per request", (options.rounds + 1) * len(WAYS), "ways") as progress:
        for round_number in range(options.rounds + 1):
            shift = round_number % len(WAYS)
            for way in WAYS[shift:] + WAYS[:shift]:
                # Other numbers for streams: their blends are others too.
                first = (2 * round_number + way.is_streamed) * options.requests
                numbers = range(first, first + options.requests)
                cost = await askers[way.server].measure(
                    numbers, is_steered=way.is_steered, is_streamed=way.is_streamed
                )
                if round_number:  # the first fills caches and loads slots
                    costs[way].append(cost)
                progress.advance(note=way.label)
    after_rounds = _resident_mib(servers)
    idle = {name: await _idle_ms(server, options.idle_seconds) for name, server in servers.items()}
    async with httpx.AsyncClient(base_url=servers[OURS].url) as http:
        bank = {
            key.removeprefix("bank."): int(value)
            for key, value in (await numbers_in_use(http)).items()
            if key.startswith("bank.")
        }
    first_plan = 2 * (options.rounds + 1) * options.requests
    return {
        "options": asdict(options),
        "cpu": {way.label: {**asdict(way), **_described(found)} for way, found in costs.items()},
        "idle_ms_per_second": idle,
        "memory": {"started": started, "after_rounds": after_rounds},
        "bank": bank,
        "plans": await _many_plans(options, servers[OURS], cultures, first_plan) if options.plans else None,
    }


def formula_bytes(base: BaseModel, bank: Mapping[str, int]) -> int:
    """What the bank should take by its formula, from the model's shapes alone, at two bytes an element."""
    from steer_server.engine.bank import bank_bytes

    layers = [(in_features, (out,)) for out, in_features in base.linear_shapes.values()]
    return bank_bytes(layers, bank["slots"], bank["rank"], copies=bank["copies"])


async def _many_plans(
    options: OverheadOptions, server: MeasuredServer, cultures: Sequence[str], first: int
) -> dict[str, Any]:
    """Memory of both kinds of processes over `options.plans` plans that were not seen before."""
    asker = Asker(server, Load(server.model, cultures, 1, options.concurrency))
    done: list[int] = []
    mib: dict[str, list[float]] = {process: [] for process in PROCESSES}

    def look() -> None:
        done.append(len(asker.plans))
        for process, resident in zip(PROCESSES, server.resident_bytes(), strict=True):
            mib[process].append(resident / MIB)

    look()
    with Progress("distinct plans", options.plans, "plans") as progress:
        step = -(-options.plans // NUM_LOOKS)
        for start in range(0, options.plans, step):
            count = min(step, options.plans - start)
            numbers = range(first + start, first + start + count)
            await asker.measure(numbers, is_steered=True, is_streamed=False, on_answer=progress.advance)
            look()
    trends = {process: second_half(done, values) for process, values in mib.items()}
    return {
        "plans": len(asker.plans),
        "done": done,
        "mib": {process: [round(value, 2) for value in values] for process, values in mib.items()},
        "trends": {
            process: None if trend is None else {**trend.describe(), "is_flat": trend.is_flat(MAX_GROWTH_MIB)}
            for process, trend in trends.items()
        },
    }


async def _idle_ms(server: MeasuredServer, seconds: float) -> float:
    """CPU time of the API process per second without requests."""
    before, _ = server.cpu_seconds()
    await asyncio.sleep(seconds)
    after, _ = server.cpu_seconds()
    return round(1000 * (after - before) / seconds, 2)


def _resident_mib(servers: Mapping[str, MeasuredServer]) -> dict[str, dict[str, float]]:
    return {
        name: {
            process: round(resident / MIB, 1)
            for process, resident in zip(PROCESSES, server.resident_bytes(), strict=True)
        }
        for name, server in servers.items()
    }


def _described(costs: Sequence[Cost]) -> dict[str, Any]:
    every = {key: [getattr(cost, key) for cost in costs] for key in ("api_ms", "engine_ms", "wall_ms")}
    medians = {key: round(statistics.median(values), 3) for key, values in every.items()}
    return {**medians, "all_api_ms": [round(value, 3) for value in every["api_ms"]]}
