"""Which of the model's own weights the bank takes into its products, and what becomes of the others.

On CPU vLLM packs a layer's weights as soon as they are loaded, and the plain ones are gone. They are kept
back until the bank has taken those that it can; the rest is packed then, as vLLM would have.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.layers import utils as vllm_layers
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.platforms import current_platform

from steer_server.engine.packed import ROWS_PER_BLOCK, is_packable

_pack_as_vllm_does = vllm_layers.dispatch_cpu_unquantized_gemm


def base_weight(layer: Any, dtype: torch.dtype, width: int) -> torch.Tensor | None:
    """A layer's weights if they can be in one product with the bank's A, of `width` rows per packed slice.

    None for quantised weights, and on CPU for those that vLLM packs better in its own way.
    """
    weight = getattr(layer, "weight", None)
    if not isinstance(layer.quant_method, UnquantizedLinearMethod) or weight is None or weight.dtype != dtype:
        return None
    if weight.device.type == "cpu" and not (is_packable(weight) and width % ROWS_PER_BLOCK == 0):
        return None
    plain: torch.Tensor = weight.data
    return plain


def keep_weights_plain() -> None:
    """Leaves the weights of linear layers to `pack_the_rest`, after the bank has taken what it can."""

    def wait(layer: torch.nn.Module, remove_weight: bool) -> None:
        if isinstance(layer, LinearBase):
            layer.cpu_linear = _waiting
        else:
            _pack_as_vllm_does(layer, remove_weight)

    vllm_layers.dispatch_cpu_unquantized_gemm = wait


def pack_the_rest(model: torch.nn.Module) -> None:
    """Packs the layers that the bank has not taken, as vLLM would have."""
    if not current_platform.is_cpu():
        return
    for layer in model.modules():
        is_waiting = isinstance(layer, LinearBase) and getattr(layer, "cpu_linear", None) is _waiting
        if is_waiting and layer.get_parameter("weight").numel() > 0:
            _pack_as_vllm_does(layer, remove_weight=True)


def _waiting(*_: Any) -> torch.Tensor:
    raise RuntimeError("the weights of this layer were never packed")
