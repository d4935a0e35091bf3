"""One engine of `bench throughput`, in a process of its own: answers `[workload, batch, N]` by `[t1, tN]`.

A workload is a batch of distinct prompts of about 40 tokens, greedy, without an early end; t1 is when all of
them have their first token, tN when all have N, in seconds from the beginning.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.loader import load_directory, with_bank_size
from steer_server.catalogue.snapshot import Catalogue
from steer_server.settings import Settings, allow_plugins
from steer_server.steering.plan import build_plan
from steer_server.steering.policy import Policy
from steer_server.steering.spec import SteeringSpec

KV_CACHE_BYTES = 2**29
READY = "ready"
ANSWER_PREFIX = "steer-bench: "

BLENDED = {"bank_one": 1, "bank_three": 3, "bank_eight": 8}
"""Workload -> adapters in each of its blends, which are all different and begin at every adapter in turn."""
WORKLOADS = {
    "bare": ("bare",),
    "stock_one": ("stock_one",),
    "stock_each": ("stock_each",),
    "bank": ("bank_none", "bank_zero", "bank_same", "bank_weights", *BLENDED),
}
"""Engine -> what is measured with it."""
ENGINE_OF = {workload: engine for engine, workloads in WORKLOADS.items() for workload in workloads}


def prompts(batch: int) -> list[str]:
    return [
        f"Person {i} is asked by a neighbour what matters most in life, what children should learn at home, "
        f"and whom one can trust. Person {i} thinks for a while and then answers:"
        for i in range(batch)
    ]


def blend(cultures: list[str], i: int, batch: int, size: int, first: int | None = None) -> SteeringSpec:
    """Blend i of `batch`, whose weights differ from those of all others.

    Args:
        first: index of its first culture; i if None.
    """
    size = min(size, len(cultures))
    raw = [1 + j + i / batch for j in range(size)]
    total = (0.6 + 0.4 * i / batch) / sum(raw)
    chosen = [cultures[((i if first is None else first) + j) % len(cultures)] for j in range(size)]
    return SteeringSpec(cultures={c: round(w * total, 4) for c, w in zip(chosen, raw, strict=True)})


def specs(workload: str, cultures: list[str], batch: int) -> list[SteeringSpec]:
    """What the requests of a workload of the bank ask for."""
    if workload == "bank_none":
        return []
    if workload == "bank_same":
        return [blend(cultures, 0, batch, 3)] * batch
    if workload == "bank_weights":
        return [blend(cultures[:3], i, batch, 3, first=0) for i in range(batch)]
    if workload == "bank_zero":
        return [SteeringSpec(cultures={cultures[i % len(cultures)]: 1.0}, strength=0.0) for i in range(batch)]
    return [blend(cultures, i, batch, BLENDED[workload]) for i in range(batch)]


def main(engine: str, adapters: str, most: int) -> None:
    """Answers the questions on stdin until it ends. Args: most: largest batch."""
    settings = with_bank_size(Settings.read(adapters=adapters))
    base = BaseModel.of(settings)
    catalogue, _ = load_directory(settings.adapters, base, settings.bank_rank)
    allow_plugins(engine=engine == "bank")

    from vllm import LLM

    llm = LLM(
        **_options(engine, base, settings, most),
        max_model_len=1024,
        kv_cache_memory_bytes=KV_CACHE_BYTES,
        disable_log_stats=True,
        enable_prefix_caching=False,
    )
    requests_of = _bank_requests(llm, catalogue, settings) if engine == "bank" else _stock_requests(catalogue)
    _say(READY)
    for question in sys.stdin:
        workload, batch, num_tokens = json.loads(question)
        _say(json.dumps(_measured(llm.llm_engine, requests_of(workload, batch), batch, num_tokens)))


def _say(text: str) -> None:
    # Engines print too.
    print(f"{ANSWER_PREFIX}{text}", flush=True)


def _measured(engine: Any, lora_requests: Any, batch: int, num_tokens: int) -> tuple[float, float]:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = SamplingParams(
        temperature=0, max_tokens=num_tokens, ignore_eos=True, output_kind=RequestOutputKind.DELTA
    )
    has_none = {f"{uuid.uuid4().hex}-{i}" for i in range(batch)}
    requests = zip(sorted(has_none), prompts(batch), lora_requests or [None] * batch, strict=True)
    started, first = time.perf_counter(), 0.0
    for request_id, prompt, lora_request in requests:
        engine.add_request(request_id, prompt, sampling, lora_request=lora_request)
    while engine.has_unfinished_requests():
        has_none.difference_update(output.request_id for output in engine.step())
        if not has_none and not first:
            first = time.perf_counter() - started
    return first, time.perf_counter() - started


def _options(engine: str, base: BaseModel, settings: Settings, most: int) -> dict[str, Any]:
    if engine == "bank":
        from steer_server.engine.launch import engine_options

        steered = engine_options(base, settings)
        return {**steered, "max_num_seqs": most, "max_loras": most, "max_cpu_loras": most}
    options: dict[str, Any] = {"model": base.path, "max_num_seqs": most}
    if engine == "bare":
        return options
    slots = 1 if engine == "stock_one" else most
    return options | {
        "enable_lora": True,
        "max_loras": slots,
        "max_cpu_loras": slots,
        "max_lora_rank": settings.bank_rank,
        "lora_target_modules": base.linear_suffixes,
    }


RequestsOf = Callable[[str, int], Any]
"""(workload, batch) -> `LoRARequest`s for `generate`, or None."""


def _stock_requests(catalogue: Catalogue) -> RequestsOf:
    from vllm.lora.request import LoRARequest

    folder = str(next(iter(catalogue.cultures.values())).folder)

    def requests_of(workload: str, batch: int) -> Any:
        if workload == "bare":
            return None
        ids = [1] * batch if workload == "stock_one" else range(1, batch + 1)
        return [LoRARequest(f"adapter-{i}", i, folder) for i in ids]

    return requests_of


def _bank_requests(llm: Any, catalogue: Catalogue, settings: Settings) -> RequestsOf:
    from steer_server.engine.plan_ids import PlanIds

    names = sorted(catalogue.cultures)[: settings.bank_slots]
    for slot, name in enumerate(names):
        adapter = catalogue.cultures[name]
        llm.collective_rpc("steer_load_slot", args=(slot, adapter.digest, str(adapter.folder)))
    plan_ids = PlanIds(settings.max_plans)

    def requests_of(workload: str, batch: int) -> Any:
        asked = specs(workload, names, batch)
        plans = [build_plan(spec, catalogue, Policy()) for spec in asked]
        return [plan_ids.take(plan) for plan in plans] or None

    return requests_of


if __name__ == "__main__":
    _, engine_, adapters_, most_ = sys.argv
    main(engine_, adapters_, int(most_))
