"""Products with matrices that are packed for the CPU: the model's own weights and the bank's A in one.

A step of few tokens spends its time on reading weights and on starting products. torch reads a plain matrix
at about half the speed of a packed one, so vLLM packs the weights and drops the plain ones; a packed matrix
of its own for A would double the number of products. Rows are packed in blocks that do not depend on each
other, so A lies behind the weights in one matrix, and its blocks are written anew when an adapter is loaded.
"""

from __future__ import annotations

import torch
from vllm import _custom_ops as ops

from steer_server.engine.bank import DenseProduct, Product

ROWS_PER_BLOCK = 32
COLUMNS_PER_BLOCK = 32


class PackedProduct:
    """`x Mᵀ` from packed rows; those that change are kept plain as well."""

    copies = 2

    def __init__(self, changing_N_I: torch.Tensor, fixed_F_I: torch.Tensor | None = None) -> None:
        self.changing_N_I = changing_N_I
        self.fixed_F_I = changing_N_I.new_empty(0)
        parts = [changing_N_I] if fixed_F_I is None else [fixed_F_I.contiguous(), changing_N_I]
        self.packed_O_I = torch.cat([torch.ops._C.convert_weight_packed(part) for part in parts])

    def __call__(self, x_T_I: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = ops.weight_packed_linear_cpu(x_T_I, self.packed_O_I, len(self.packed_O_I), None)
        return y

    def refresh(self) -> None:
        # In place: compiled graphs hold this very tensor.
        self.packed_O_I[-len(self.changing_N_I) :].copy_(
            torch.ops._C.convert_weight_packed(self.changing_N_I)
        )


def is_packable(matrix: torch.Tensor) -> bool:
    """Whether the CPU has the operation, and the matrix the form for it."""
    return (
        matrix.device.type == "cpu"
        and matrix.dtype == torch.bfloat16
        and matrix.ndim == 2
        and matrix.shape[0] % ROWS_PER_BLOCK == 0
        and matrix.shape[1] % COLUMNS_PER_BLOCK == 0
        and hasattr(torch.ops._C, "weight_packed_linear")
        and torch.cpu._is_avx512_bf16_supported()
    )


def packed_if_possible(changing_N_I: torch.Tensor, fixed_F_I: torch.Tensor | None = None) -> Product:
    if is_packable(changing_N_I):
        return PackedProduct(changing_N_I, fixed_F_I)
    return DenseProduct(changing_N_I, fixed_F_I)
