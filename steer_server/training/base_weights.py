"""The model that adapters are trained on: bf16, and an attention that is quick to learn through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def load_base(model_path: Path, attention: str = "") -> Any:
    """The causal model in bf16, on CUDA if there is one.

    Args:
        attention: transformers' name of an implementation. By default CUDA has the fused one, and CPU plain
            products with a float32 softmax: there the fused one's backward pass is much the slower.
    """
    from transformers import AutoModelForCausalLM

    device, usual = ("cuda", "sdpa") if torch.cuda.is_available() else ("cpu", "eager")
    model = AutoModelForCausalLM.from_pretrained(
        model_path, dtype=torch.bfloat16, attn_implementation=attention or usual
    )
    return model.to(device)


def who_sees_whom(model: Any, sees: torch.Tensor) -> torch.Tensor:
    """A bool mask as the model's attention takes it: plain products add it to their scores."""
    if model.config._attn_implementation != "eager":
        return sees
    hidden = torch.finfo(model.dtype).min
    return torch.zeros_like(sees, dtype=model.dtype).masked_fill_(~sees, hidden)
