"""`bench throughput`: decode speed of several ways to serve adapters, side by side in one run.

Every variant runs in a fresh engine process; rounds of all variants are interleaved, because machines drift.
What counts is the ratio to the model without LoRA.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from steer_server.builtin_model import ensure_builtin
from steer_server.errors import ConfigError
from steer_server.evaluation.report import write_report
from steer_server.settings import Settings, engine_log_level

VARIANTS = {
    "bare": "no LoRA",
    "stock_one": "stock vLLM LoRA, one adapter for all",
    "stock_each": "stock vLLM LoRA, an adapter slot per request",
    "bank_blends": "bank, a different 3-adapter blend per request",
}
"""In the order in which a round runs them. `engine/bench_worker.py` says what each does."""

NUM_TOKENS = 64

RunVariant = Callable[[Settings, str, Sequence[int]], dict[int, float]]


def run_throughput(
    settings: Settings, batches: Sequence[int], repeats: int, out: Path, run: RunVariant | None = None
) -> None:
    """Measures, prints a table and one line of JSON, and writes `out/throughput.json`.

    Raises: ConfigError when a variant's process fails.
    """
    rates: dict[str, dict[int, list[float]]] = {v: {b: [] for b in batches} for v in VARIANTS}
    for round_number in range(repeats):
        for variant in VARIANTS:
            print(f"round {round_number + 1}/{repeats}: {VARIANTS[variant]} ...", file=sys.stderr, flush=True)
            for batch, rate in (run or run_in_process)(settings, variant, batches).items():
                rates[variant][batch].append(rate)
    results: dict[str, Any] = {"tokens_per_request": NUM_TOKENS, "variants": {}}
    for variant, label in VARIANTS.items():
        results["variants"][variant] = {
            "label": label,
            "tokens_per_second": {b: round(statistics.median(rates[variant][b]), 1) for b in batches},
            "ratio_to_bare": {
                b: round(
                    statistics.median(
                        r / base for r, base in zip(rates[variant][b], rates["bare"][b], strict=True)
                    ),
                    3,
                )
                for b in batches
            },
            "all": rates[variant],
        }
    _print_table(results, batches)
    write_report(out / "throughput.json", results)
    print(json.dumps({v: r["ratio_to_bare"] for v, r in results["variants"].items()}))


def run_in_process(settings: Settings, variant: str, batches: Sequence[int]) -> dict[int, float]:
    """Tokens per second by batch size, measured in a fresh process."""
    ensure_builtin(settings.cache)
    command = [
        sys.executable,
        "-m",
        "steer_server.engine.bench_worker",
        variant,
        str(settings.adapters),
        str(NUM_TOKENS),
        *map(str, batches),
    ]
    process = subprocess.run(
        command, capture_output=True, text=True, check=False, env=engine_log_level("ERROR")
    )
    if process.returncode != 0:
        raise ConfigError(f"{variant} failed:\n{process.stderr[-3000:]}")
    rates = json.loads(process.stdout.strip().splitlines()[-1])
    return {int(batch): float(rate) for batch, rate in rates.items()}


def _print_table(results: dict[str, Any], batches: Sequence[int]) -> None:
    table = Table(
        "variant", *(f"batch {b}: tokens/s" for b in batches), *(f"batch {b}: ratio" for b in batches)
    )
    for variant in results["variants"].values():
        speeds = [f"{variant['tokens_per_second'][b]:.0f}" for b in batches]
        ratios = [f"{variant['ratio_to_bare'][b]:.2f}" for b in batches]
        table.add_row(variant["label"], *speeds, *ratios)
    Console().print(table)
