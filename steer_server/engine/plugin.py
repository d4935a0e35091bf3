"""vLLM's entry points: `install` puts the bank into every vLLM process, `http_plugin` adds our routes.

What is replaced in vLLM 0.32, and nothing else:
- the platform's punica wrapper class, and the worker's LoRA manager class;
- the model runners' sampling, before which the taps read the step's hidden states, and how much of a text
  whose log-probabilities are wanted may come from the prefix cache;
- in the server's process, how its engine is told to end (`ending.py`);
- there, what is noted of its engine's outputs on their way to their requests (`answer_scores.py`);
- on CPU, the rule that switches compilation off as soon as LoRA is on (it is there for vLLM's own LoRA
  operations, which cannot be traced; the bank's can);
- on CPU, the packing of a linear layer's weights, which the bank does together with its own matrices;
- on CPU, the loading of a compiled model from vLLM's cache, which vLLM expects to be of its own backend, so
  that it fails on the plain one that it uses there and every start compiles again;
- on CPU, how a request's own random generator forgets the token that is sampled, and thrown away, behind
  each part of a prompt that is prefilled in parts: vLLM asks for an offset that only CUDA's generators have,
  and the engine dies.
"""

from __future__ import annotations

import functools
from typing import Any

from steer_server.settings import is_engine_plugin_allowed

WRAPPER = "steer_server.engine.worker.GatePunicaWrapper"
WORKER_EXTENSION = "steer_server.engine.worker.BankWorkerExtension"


def install() -> None:
    """Called by vLLM in every process before a model is loaded, possibly more than once. Does nothing unless
    `VLLM_PLUGINS` names it."""
    if not is_engine_plugin_allowed():
        return
    import vllm.v1.worker.lora_model_runner_mixin as mixin
    from vllm.platforms import current_platform

    from steer_server.engine.base_weights import keep_weights_plain
    from steer_server.engine.log_prob_tap import limit_cached_prefixes, tap_runner
    from steer_server.engine.orphans import end_with_parent
    from steer_server.engine.reward_tap import tap_runners
    from steer_server.engine.worker import BankWorkerManager

    end_with_parent()
    platform = type(current_platform)
    platform.get_punica_wrapper = classmethod(lambda cls: WRAPPER)
    mixin.LRUCacheWorkerLoRAManager = BankWorkerManager
    tap_runners(is_cpu=current_platform.is_cpu())
    tap_runner()
    limit_cached_prefixes()
    if current_platform.is_cpu() and not hasattr(platform, "_steer_keeps_compilation"):
        platform._steer_keeps_compilation = True
        _keep_compilation(platform)
        keep_weights_plain()
        _keep_compiled_models()
        _rewind_cpu_generators()


def _keep_compilation(platform: Any) -> None:
    original = platform.check_and_update_config.__func__

    def check_and_update_config(cls: Any, vllm_config: Any) -> None:
        lora_config, vllm_config.lora_config = vllm_config.lora_config, None
        try:
            original(cls, vllm_config)
        finally:
            vllm_config.lora_config = lora_config

    platform.check_and_update_config = classmethod(check_and_update_config)


def _keep_compiled_models() -> None:
    import torch

    original = torch.compiler.load_compiled_function

    @functools.wraps(original)
    def load_compiled_function(*args: Any, **kwargs: Any) -> Any:
        loaded: Any = original(*args, **kwargs)
        compiled = loaded._artifacts.compiled_fn
        if not hasattr(compiled, "finalize_loading"):
            # vLLM's own backend has parts left to load here; the plain one is whole.
            compiled.finalize_loading = lambda vllm_config: None
        return loaded

    torch.compiler.load_compiled_function = load_compiled_function


def _rewind_cpu_generators() -> None:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner as Runner

    sample, bookkeep = Runner._sample, Runner._bookkeeping_sync

    @functools.wraps(sample)
    def remember_and_sample(self: Any, *args: Any, **kwargs: Any) -> Any:
        is_discarded = self.discard_request_mask.np
        self._steer_states = {
            row: generator.get_state()
            for row, generator in self.input_batch.generators.items()
            if is_discarded[row]
        }
        return sample(self, *args, **kwargs)

    @functools.wraps(bookkeep)
    def rewind_and_bookkeep(self: Any, *args: Any, **kwargs: Any) -> Any:
        generators = self.input_batch.generators
        rewound = {row: generators.pop(row) for row in self._steer_states if row in generators}
        for row, generator in rewound.items():
            generator.set_state(self._steer_states[row])
        try:
            return bookkeep(self, *args, **kwargs)
        finally:
            generators.update(rewound)

    Runner._sample, Runner._bookkeeping_sync = remember_and_sample, rewind_and_bookkeep


@functools.cache
def http_plugin() -> Any:
    """The object that vLLM asks to attach our routes and to prepare their state: one in a process, which
    knows afterwards how the engine ended."""
    from steer_server.engine.vllm_engine import HttpPlugin

    return HttpPlugin()
