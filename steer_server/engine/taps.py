"""Taps: what is read from a step's hidden states leaves the worker in the output of that same step.

vLLM has a field there for scores of a prompt's tokens, which its second model runner fills when asked; the
API process finds it in `RequestOutput.prompt_token_id_logprobs`. So readings need no call of their own, and
an aborted request leaves nothing behind.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

Read = Callable[[Any], dict[str, torch.Tensor]]
"""A model runner between its forward pass and its sampling -> readings, on the CPU, by request id. None of a
request that goes on reading its prompt: the engine says nothing of those."""


def tap(runner_class: Any, name: str, read: Read) -> None:
    """Has every step of these runners read. A second tap of one name is none."""
    mark = f"_steer_tap_{name}"
    if hasattr(runner_class, mark):
        return
    setattr(runner_class, mark, True)
    sample = runner_class.sample_tokens

    @functools.wraps(sample)
    def read_and_sample(self: Any, *args: Any, **kwargs: Any) -> Any:
        readings = read(self)
        output = sample(self, *args, **kwargs)
        if readings:
            # The first runner's asynchronous output wraps a plain one; the second's has the field itself.
            plain = getattr(output, "_model_runner_output", output)
            plain.prompt_token_id_logprobs_dict.update(readings)
        return output

    runner_class.sample_tokens = read_and_sample
