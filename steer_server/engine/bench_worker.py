"""One variant of `bench throughput`, in a process of its own: prints {batch: tokens per second} as JSON.

The workload: distinct prompts of about 40 tokens, NUM tokens each, greedy, no early end; prefill included.
The best of three measured runs after two warm-up runs, since other load only ever slows a run down.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.loader import load_directory, with_bank_size
from steer_server.catalogue.snapshot import Catalogue
from steer_server.settings import Settings, allow_plugins
from steer_server.steering.plan import build_plan
from steer_server.steering.policy import Policy
from steer_server.steering.spec import SteeringSpec

NUM_RUNS = 3


def prompts(batch: int) -> list[str]:
    return [
        f"Person {i} is asked by a neighbour what matters most in life, what children should learn at home, "
        f"and whom one can trust. Person {i} thinks for a while and then answers:"
        for i in range(batch)
    ]


def blend(catalogue: Catalogue, i: int, batch: int) -> SteeringSpec:
    """A different blend of three cultures for every i."""
    cultures = sorted(catalogue.cultures)
    chosen = [cultures[(i + k) % len(cultures)] for k in range(3)]
    share = round(0.2 + 0.6 * i / batch, 3)
    return SteeringSpec(cultures=dict(zip(chosen, (share, round(0.9 - share, 3), 0.1), strict=True)))


def main(variant: str, adapters: str, num_tokens: int, batches: list[int]) -> dict[int, float]:
    settings = with_bank_size(Settings.read(adapters=adapters))
    base = BaseModel.of(settings)
    catalogue, _ = load_directory(settings.adapters, base, settings.bank_rank)
    is_bank = variant.startswith("bank")
    allow_plugins(engine=is_bank)

    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    from steer_server.engine.launch import engine_options
    from steer_server.engine.vllm_engine import PlanIds

    most = max(batches)
    options: dict[str, Any] = {"model": base.path, "max_num_seqs": most}
    if is_bank:
        options = {
            **engine_options(base, settings),
            "max_num_seqs": most,
            "max_loras": most,
            "max_cpu_loras": most,
        }
    elif variant != "bare":
        slots = 1 if variant == "stock_one" else most
        options |= {
            "enable_lora": True,
            "max_loras": slots,
            "max_cpu_loras": slots,
            "max_lora_rank": 8,
            "lora_target_modules": base.linear_suffixes,
        }
    llm = LLM(
        **options,
        max_model_len=1024,
        kv_cache_memory_bytes=2**30,
        disable_log_stats=True,
        enable_prefix_caching=False,
    )
    if is_bank:
        for slot, adapter in enumerate(catalogue.adapters[: settings.bank_slots]):
            llm.collective_rpc("steer_load_slot", args=(slot, adapter.digest, str(adapter.folder)))
    plan_ids = PlanIds(settings.max_plans)

    def lora_requests(batch: int) -> list[LoRARequest] | None:
        if variant == "bare":
            return None
        if is_bank:
            plans = [build_plan(blend(catalogue, i, batch), catalogue, Policy()) for i in range(batch)]
            return [plan_ids.take(plan) for plan in plans]
        folder = str(catalogue.adapters[0].folder)
        ids = [1] * batch if variant == "stock_one" else range(1, batch + 1)
        return [LoRARequest(f"adapter-{i}", i, folder) for i in ids]

    rates = {}
    sampling = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
    for batch in batches:
        requests = lora_requests(batch)
        seconds = []
        for _ in range(2 + NUM_RUNS):
            started = time.perf_counter()
            llm.generate(prompts(batch), sampling, lora_request=requests, use_tqdm=False)
            seconds.append(time.perf_counter() - started)
        rates[batch] = batch * num_tokens / min(seconds[2:])
    return rates


if __name__ == "__main__":
    _, variant_, adapters_, num_tokens_, *batches_ = sys.argv
    measured = main(variant_, str(Path(adapters_)), int(num_tokens_), [int(b) for b in batches_])
    print(json.dumps(measured), flush=True)
