"""A frozen linear layer with a trained low-rank update, computed in the model's own dtype.

PEFT's layer computes the update in float32, casting what goes in and out: on a small model that costs half as
much as the model itself. The factors stay float32 here too; only the products are bf16, with float32 sums.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import Linear as PeftLinear
from torch import nn


class _LowRankLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight_out_in: torch.Tensor,
        a_R_in: torch.Tensor,
        b_out_R: torch.Tensor,
    ) -> torch.Tensor:
        flat_N_in = x.reshape(-1, x.shape[-1])
        a, b = a_R_in.to(x.dtype), b_out_R.to(x.dtype)
        inner_N_R = flat_N_in @ a.T
        y = (flat_N_in @ weight_out_in.T).addmm_(inner_N_R, b.T)
        ctx.save_for_backward(flat_N_in, weight_out_in, a, b, inner_N_R)
        ctx.shape, ctx.dtypes = x.shape, (a_R_in.dtype, b_out_R.dtype)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat_N_in, weight_out_in, a, b, inner_N_R = ctx.saved_tensors
        gradient_N_out = gradients[0].reshape(-1, gradients[0].shape[-1])
        back_N_R = gradient_N_out @ b
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = (gradient_N_out @ weight_out_in).addmm_(back_N_R, a).view(ctx.shape)
        to_a = (back_N_R.T @ flat_N_in).to(ctx.dtypes[0])
        to_b = (gradient_N_out.T @ inner_N_R).to(ctx.dtypes[1])
        return to_x, None, to_a, to_b


def low_rank_linear(
    x: torch.Tensor, base: nn.Linear, a_R_in: torch.Tensor, b_out_R: torch.Tensor
) -> torch.Tensor:
    """`x Wᵀ + (x Aᵀ) Bᵀ + bias` in the dtype of x and W, with gradients to x, A and B, none to W.

    Args:
        x: `[..., in]`.
        base: the frozen layer, of x's dtype.
        a_R_in, b_out_R: any float dtype, usually float32; the gradients have it too.
    """
    y: torch.Tensor = _LowRankLinear.apply(x, base.weight, a_R_in, b_out_R)  # type: ignore[no-untyped-call]
    return y if base.bias is None else y + base.bias


class FastLora(PeftLinear):  # type: ignore[misc]
    """PEFT's layer for one LoRA without dropout, with the update computed as above."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """PEFT's own semantics: `x Wᵀ + (alpha / r) (x Aᵀ) Bᵀ`, without the second term when disabled."""
        base: nn.Linear = self.get_base_layer()
        if self.disable_adapters:
            plain: torch.Tensor = base(x)
            return plain
        (name,) = self.active_adapters
        b_out_R = self.lora_B[name].weight * self.scaling[name]
        return low_rank_linear(x, base, self.lora_A[name].weight, b_out_R)


def lora_config(rank: int, alpha: float, target_modules: tuple[str, ...]) -> LoraConfig:
    """A plain LoRA on linear layers; PEFT makes `FastLora` layers of it."""
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(target_modules), task_type="CAUSAL_LM")
    config._register_custom_module({nn.Linear: FastLora})
    return config
