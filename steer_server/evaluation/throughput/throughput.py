"""`bench throughput`: decoding and first tokens of several ways to serve adapters, side by side in one run.

All engines are up at once (engines.py) and take turns, each beside a run of the model without LoRA just
before it, because machines drift within minutes. What counts is the ratio of the two; what the model without
LoRA's own ratio is off 1 is noise. With B requests, t1 seconds to everyone's first token (the prefill) and tN
to everyone's N-th, decoding makes `B (N - 1) / (tN - t1)` tokens per second.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.loader import with_bank_size
from steer_server.evaluation.html import write_all
from steer_server.evaluation.report import commit
from steer_server.evaluation.throughput.engines import Measure, Seconds, running_engines
from steer_server.evaluation.throughput.report import sections, tables
from steer_server.evaluation.verdicts import Verdict, check_shown, verdict_table
from steer_server.progress import Progress
from steer_server.settings import Settings

WORKLOADS = {
    "bare": "no LoRA",
    "stock_one": "stock vLLM LoRA, one adapter for all",
    "stock_each": "stock vLLM LoRA, an adapter slot per request",
    "bank_none": "bank, unsteered",
    "bank_zero": "bank, strength 0",
    "bank_same": "bank, one blend of 3 for all",
    "bank_weights": "bank, blends of the same 3, all different",
    "bank_one": "bank, one adapter each, all different",
    "bank_three": "bank, blends of 3 of 8, all different",
    "bank_eight": "bank, blends of 8, all different",
}

NUM_TOKENS = 64

WARM_UP_TOKENS = 4
REFERENCE = "bare"

SHORT = {"bank_weights": "same 3", "bank_three": "3 of 8"}
"""What is judged."""
LEAST_DECODE = {8: 0.85, 32: 0.9}
"""By batch."""
LEAST_TO_STOCK = 2.5
LEAST_TO_ONE_BLEND = 0.97
MOST_FIRST_TOKEN = 1.1

Pair = tuple[Seconds, Seconds]
"""Of a workload, and of the reference just before it."""
Round = Mapping[str, Mapping[int, Pair]]
"""Workload -> batch -> pair."""
StartEngines = Callable[[Settings, int, Path], AbstractContextManager[Measure]]


def run_throughput(
    settings: Settings, batches: Sequence[int], repeats: int, out: Path, start: StartEngines = running_engines
) -> None:
    """Measures, prints tables and one line of JSON, and writes `out/report.json` and `out/report.html`.

    Args:
        start: what starts the engines, and stops them when it ends.

    Raises: EvaluationError when an engine does not start or dies, and, after the report is written, when
        something that is to be shown is not.
    """
    commit()
    with start(settings, max(batches), out) as measure:
        rounds = _measured(measure, batches, repeats)
    results: dict[str, Any] = {
        "server": {"engine": "all in processes of their own, up at once, asked in turns"},
        "tokens_per_request": NUM_TOKENS,
        "batches": list(batches),
        "rounds": rounds,
        "workloads": {
            workload: {"label": label, **_measures(workload, rounds, batches)}
            for workload, label in WORKLOADS.items()
        },
        "bank_share": bank_share(settings),
    }
    found = verdicts(results["workloads"], batches)
    results["verdicts"] = [asdict(verdict) for verdict in found]
    shown = [verdict_table(found), *tables(results)]
    write_all(out, "Throughput: what steering costs", results, sections(results), shown)
    print(json.dumps({w: one["decode_ratio"] for w, one in results["workloads"].items()}))
    check_shown(found, out)


def _measured(measure: Measure, batches: Sequence[int], repeats: int) -> list[dict[str, dict[int, Pair]]]:
    rounds: list[dict[str, dict[int, Pair]]] = [{w: {} for w in WORKLOADS} for _ in range(repeats)]
    with Progress("throughput", repeats * len(batches) * len(WORKLOADS), "pairs") as progress:
        for batch in batches:
            for workload in WORKLOADS:
                measure(workload, batch, WARM_UP_TOKENS)
            for number, found in enumerate(rounds):
                shift = number % len(WORKLOADS)
                for workload in [*WORKLOADS][shift:] + [*WORKLOADS][:shift]:
                    reference = measure(REFERENCE, batch, NUM_TOKENS)
                    found[workload][batch] = (measure(workload, batch, NUM_TOKENS), reference)
                    progress.advance(note=f"{workload}, {batch} at once")
    return rounds


def _measures(workload: str, rounds: Sequence[Round], batches: Sequence[int]) -> dict[str, Any]:
    """Medians over rounds. Ratios to others than the reference are ratios of ratios to it."""

    def median(of: Callable[[Round, int], float], digits: int) -> dict[int, float]:
        return {b: round(statistics.median(of(found, b) for found in rounds), digits) for b in batches}

    def to(other: str) -> Callable[[Round, int], float]:
        return lambda found, b: _decode_ratio(found[workload][b], b) / _decode_ratio(found[other][b], b)

    return {
        "decode_tokens_per_second": median(lambda found, b: _decode(found[workload][b][0], b), 1),
        "first_token_ms": median(lambda found, b: 1000 * found[workload][b][0][0], 1),
        "decode_ratio": median(lambda found, b: _decode_ratio(found[workload][b], b), 3),
        "all_decode_ratios": {
            b: [round(_decode_ratio(found[workload][b], b), 3) for found in rounds] for b in batches
        },
        "first_token_ratio": median(lambda found, b: found[workload][b][0][0] / found[workload][b][1][0], 3),
        "ratio_to_stock": median(to("stock_each"), 3),
        "ratio_to_one_blend": median(to("bank_same"), 3),
    }


def _decode(seconds: Seconds, batch: int) -> float:
    first, whole = seconds
    return batch * (NUM_TOKENS - 1) / (whole - first)


def _decode_ratio(pair: Pair, batch: int) -> float:
    own, reference = pair
    return _decode(own, batch) / _decode(reference, batch)


def verdicts(workloads: Mapping[str, Any], batches: Sequence[int]) -> list[Verdict]:
    """The goals of DESIGN for all-different blends of three, as far as the batches allow: of the same three,
    and of any three of eight. What different weights cost is told from one blend of the same adapters."""

    def at_least(workload: str, to: str, ratio: str, batch: int, least: float) -> Verdict:
        value = workloads[workload][ratio][batch]
        name = f"{SHORT[workload]}: decode, to {to} at batch {batch}"
        return Verdict(name, value >= least, f"{value:.3f}; at least {least}")

    found = []
    for workload in SHORT:
        found += [
            at_least(workload, "no LoRA", "decode_ratio", batch, LEAST_DECODE[batch])
            for batch in batches
            if batch in LEAST_DECODE
        ]
        found += [
            at_least(workload, "stock LoRA", "ratio_to_stock", batch, LEAST_TO_STOCK)
            for batch in batches
            if batch >= 8
        ]
        for batch in batches:
            value = workloads[workload]["first_token_ratio"][batch]
            name = f"{SHORT[workload]}: first tokens, to no LoRA at batch {batch}"
            found.append(Verdict(name, value <= MOST_FIRST_TOKEN, f"{value:.3f}; at most {MOST_FIRST_TOKEN}"))
    found += [
        at_least("bank_weights", "one blend for all", "ratio_to_one_blend", batch, LEAST_TO_ONE_BLEND)
        for batch in batches
        if batch >= 64
    ]
    return found


def bank_share(settings: Settings) -> dict[str, float]:
    """What bytes and operations allow: what the bank reads and multiplies in a step, as a share of what the
    model's linear layers do, LM head included; and in a prefill, where the head sees one token of a prompt.

    *Semantics*: `floor = 1 / (1 + share)` of decoding's speed, `first_token_floor = 1 + share_without_head`
    times the time of first tokens, if nothing but linear layers took time.
    """
    from transformers import AutoConfig

    sized = with_bank_size(settings)
    base = BaseModel.of(sized)
    config = AutoConfig.from_pretrained(base.path)
    shapes = base.linear_shapes.values()
    layers = sum(o * i for o, i in shapes)
    model = layers + config.vocab_size * config.hidden_size
    bank = sized.bank_slots * sized.bank_rank * sum(o + i for o, i in shapes)
    return {
        "slots": sized.bank_slots,
        "rank": sized.bank_rank,
        "share": round(bank / model, 4),
        "floor": round(1 / (1 + bank / model), 3),
        "first_token_floor": round(1 + bank / layers, 3),
    }
