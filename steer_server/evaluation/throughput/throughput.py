"""`bench throughput`: decoding and first tokens of several ways to serve adapters, side by side in one run.

Every engine runs in a fresh process; rounds of all engines are interleaved, because machines drift. What
counts is the ratio to the model without LoRA in the same round. With B requests, t1 seconds to everyone's
first token (the prefill) and tN to everyone's N-th, decoding makes `B (N - 1) / (tN - t1)` tokens per second.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from steer_server.builtin_model import ensure_builtin
from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.loader import with_bank_size
from steer_server.errors import ConfigError
from steer_server.evaluation.html import write_all
from steer_server.evaluation.report import commit
from steer_server.evaluation.throughput.report import sections, tables
from steer_server.settings import Settings, engine_log_level

ENGINES = ("bare", "stock_one", "stock_each", "bank")
"""In the order in which a round runs them. `engine/bench_worker.py` says what each measures."""

WORKLOADS = {
    "bare": "no LoRA",
    "stock_one": "stock vLLM LoRA, one adapter for all",
    "stock_each": "stock vLLM LoRA, an adapter slot per request",
    "bank_none": "bank, unsteered",
    "bank_zero": "bank, strength 0",
    "bank_same": "bank, one blend of 3 for all",
    "bank_one": "bank, one adapter each, all different",
    "bank_three": "bank, blends of 3, all different",
    "bank_eight": "bank, blends of 8, all different",
}

NUM_TOKENS = 64

Seconds = tuple[float, float]
"""(t1, tN)."""
RunEngine = Callable[[Settings, str, Sequence[int]], dict[str, dict[int, Seconds]]]
"""(settings, engine, batches) -> workload -> batch -> seconds."""


def run_throughput(
    settings: Settings, batches: Sequence[int], repeats: int, out: Path, run: RunEngine | None = None
) -> None:
    """Measures, prints tables, verdicts and one line of JSON, and writes `out/report.json` and
    `out/report.html`.

    Raises: ConfigError when an engine's process fails.
    """
    commit()
    rounds: list[dict[str, dict[int, Seconds]]] = []
    for round_number in range(repeats):
        rounds.append({})
        for engine in ENGINES:
            print(f"round {round_number + 1}/{repeats}: {engine} ...", file=sys.stderr, flush=True)
            rounds[-1] |= (run or run_in_process)(settings, engine, batches)
    results: dict[str, Any] = {
        "server": {"engine": "in a process of its own"},
        "tokens_per_request": NUM_TOKENS,
        "batches": list(batches),
        "rounds": rounds,
        "workloads": {
            workload: {"label": label, **_measures(workload, rounds, batches)}
            for workload, label in WORKLOADS.items()
        },
    }
    if run is None:
        results["bank_share"] = bank_share(settings)
    results["verdicts"] = verdicts(results["workloads"], batches)
    write_all(out, "Throughput: what steering costs", results, sections(results), tables(results))
    for verdict in results["verdicts"]:
        print(f"{'holds' if verdict['holds'] else 'MISSED'}: {verdict['must_show']}: {verdict['text']}")
    print(json.dumps({w: found["decode_ratio"] for w, found in results["workloads"].items()}))


def _measures(
    workload: str, rounds: Sequence[Mapping[str, Mapping[int, Seconds]]], batches: Sequence[int]
) -> dict[str, dict[int, float]]:
    """Medians over rounds; ratios are taken within a round."""

    def median(
        of: Callable[[Mapping[str, Mapping[int, Seconds]], int], float], digits: int
    ) -> dict[int, float]:
        return {b: round(statistics.median(of(found, b) for found in rounds), digits) for b in batches}

    return {
        "decode_tokens_per_second": median(lambda r, b: _decode(r[workload][b], b), 1),
        "first_token_ms": median(lambda r, b: 1000 * r[workload][b][0], 1),
        "decode_ratio": median(lambda r, b: _decode(r[workload][b], b) / _decode(r["bare"][b], b), 3),
        "first_token_ratio": median(lambda r, b: r[workload][b][0] / r["bare"][b][0], 3),
        "ratio_to_stock": median(lambda r, b: _decode(r[workload][b], b) / _decode(r["stock_each"][b], b), 3),
        "ratio_to_one_blend": median(
            lambda r, b: _decode(r[workload][b], b) / _decode(r["bank_same"][b], b), 3
        ),
    }


def _decode(seconds: Seconds, batch: int) -> float:
    first, whole = seconds
    return batch * (NUM_TOKENS - 1) / (whole - first)


def verdicts(workloads: Mapping[str, Any], batches: Sequence[int]) -> list[dict[str, Any]]:
    """The goals of DESIGN for all-different blends of three, as far as the batches allow."""
    blends = workloads["bank_three"]
    goals = [
        *(
            (
                f"decode at batch {batch} at least {least} of the bare model",
                blends["decode_ratio"][batch],
                least,
            )
            for batch, least in ((8, 0.85), (32, 0.9))
            if batch in batches
        ),
        *(
            (f"at batch {batch} at least 2.5 times stock LoRA", blends["ratio_to_stock"][batch], 2.5)
            for batch in batches
            if batch >= 8
        ),
        *(
            (f"{batch} vectors at least 0.97 of one vector", blends["ratio_to_one_blend"][batch], 0.97)
            for batch in batches
            if batch >= 64
        ),
    ]
    found = [
        {"must_show": goal, "holds": value >= least, "text": f"{value:.3f}"} for goal, value, least in goals
    ]
    for batch in batches:
        ratio = blends["first_token_ratio"][batch]
        goal = f"first tokens at batch {batch} within 1.10 of the bare model's time"
        found.append({"must_show": goal, "holds": ratio <= 1.1, "text": f"{ratio:.3f}"})
    return found


def bank_share(settings: Settings) -> dict[str, float]:
    """The floor that bytes and operations set: what the bank reads and multiplies in a step, as a share of
    the model's linear layers, LM head included.

    *Semantics*: `floor = 1 / (1 + share)`, what would be left of the speed if nothing but weights took time.
    """
    from transformers import AutoConfig

    sized = with_bank_size(settings)
    base = BaseModel.of(sized)
    config = AutoConfig.from_pretrained(base.path)
    shapes = base.linear_shapes.values()
    model = sum(o * i for o, i in shapes) + config.vocab_size * config.hidden_size
    bank = sized.bank_slots * sized.bank_rank * sum(o + i for o, i in shapes)
    return {
        "slots": sized.bank_slots,
        "rank": sized.bank_rank,
        "share": round(bank / model, 4),
        "floor": round(1 / (1 + bank / model), 3),
    }


def run_in_process(settings: Settings, engine: str, batches: Sequence[int]) -> dict[str, dict[int, Seconds]]:
    """Measured in a fresh process."""
    ensure_builtin(settings.cache)
    command = [
        sys.executable,
        "-m",
        "steer_server.engine.bench_worker",
        engine,
        str(settings.adapters),
        str(NUM_TOKENS),
        *map(str, batches),
    ]
    process = subprocess.run(
        command, capture_output=True, text=True, check=False, env=engine_log_level("ERROR")
    )
    if process.returncode != 0:
        raise ConfigError(f"{engine} failed:\n{process.stderr[-3000:]}")
    found = json.loads(process.stdout.strip().splitlines()[-1])
    return {
        workload: {int(batch): (float(first), float(whole)) for batch, (first, whole) in times.items()}
        for workload, times in found.items()
    }
