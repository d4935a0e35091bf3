"""The bank's products on CPU: packed matrices, and of the bank only as much as the step uses.

A step of few tokens spends its time on reading weights and on starting products. torch reads a plain matrix
at about half the speed of a packed one, so vLLM packs the weights and drops the plain ones; a packed matrix
of its own for A would double the number of products. Rows are packed in blocks that do not depend on each
other, so A lies behind the weights in one matrix, and a product may end behind any block of them. A is cut
into blocks of 32 ranks, and each lies with those of the layer's other slices: the first ranks of the bank are
the first rows behind the weights.

B's ranks lie in pairs, for the instructions that multiply pairs of bf16: each token by itself, which reads
only its own ranks, or many tokens at once by the CPU's matrix units, which are so much quicker that ranks
without a gate may be multiplied too.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from vllm import _custom_ops as ops

from steer_server.engine.bank import RANKS_PER_BLOCK, DenseProducts, GateTable, Products
from steer_server.engine.compiled import load_operation

ROWS_PER_BLOCK = RANKS_PER_BLOCK
COLUMNS_PER_BLOCK = 32
COMPILER_FLAGS = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512bf16")


class PackedProducts:
    """See `bank.Products`."""

    copies = 2

    def __init__(
        self, a_NG_I: torch.Tensor, b: Sequence[torch.Tensor], weight_O_I: torch.Tensor | None = None
    ) -> None:
        _define_operation()
        self.a_NG_I, self.b, self.weight_O_I = a_NG_I, tuple(b), a_NG_I.new_empty(0)
        rows = [] if weight_O_I is None else [_packed(weight_O_I.contiguous())]
        self.num_own = 0 if weight_O_I is None else len(weight_O_I)
        self.down = torch.cat([*rows, _packed(a_NG_I)])
        self.up = [_in_pairs(b_O_G) for b_O_G in self.b]
        self.num_outputs = sum(map(len, self.b))

    def __call__(self, x_T_I: torch.Tensor, gates: GateTable) -> torch.Tensor:
        # Made here, so that a compiled graph uses one again.
        y_T_O = x_T_I.new_empty(x_T_I.shape[0], self.num_outputs)
        torch.ops.steer.packed_linear(
            y_T_O, x_T_I, self.down, self.up, gates.gates_T_G, gates.num_used_1, self.num_own
        )
        return y_T_O

    def refresh(self) -> None:
        # In place: compiled graphs hold these very tensors.
        num_ranks, num_inputs = self.a_NG_I.shape
        blocks = self.a_NG_I.view(len(self.b), -1, RANKS_PER_BLOCK, num_inputs).transpose(0, 1)
        self.down[self.num_own :].copy_(_packed(blocks.reshape(num_ranks, num_inputs)))
        for pairs, b_O_G in zip(self.up, self.b, strict=True):
            pairs.copy_(_in_pairs(b_O_G))


def packed_if_possible(
    a_NG_I: torch.Tensor, b: Sequence[torch.Tensor], weight_O_I: torch.Tensor | None = None
) -> Products:
    given = [a_NG_I, *b] if weight_O_I is None else [a_NG_I, *b, weight_O_I]
    make = PackedProducts if all(map(is_packable, given)) else DenseProducts
    return make(a_NG_I, b, weight_O_I)


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


def _packed(matrix: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = torch.ops._C.convert_weight_packed(matrix)
    return packed


def _in_pairs(b_O_G: torch.Tensor) -> torch.Tensor:
    """`[G / 2, O, 2]`: of two ranks that follow each other, what they add to each output."""
    return b_O_G.view(len(b_O_G), -1, 2).transpose(0, 1).contiguous()


def packed_linear(
    y_T_O: torch.Tensor,
    x_T_I: torch.Tensor,
    down: torch.Tensor,
    up: list[torch.Tensor],
    gates_T_G: torch.Tensor,
    num_used_1: torch.Tensor,
    num_own: int,
) -> None:
    """One operation of the compiled graph, whose sizes inside may differ from step to step. It stands for
    `packed_linear.cpp` where that cannot be compiled.

    Args:
        y_T_O: where the output is written.
        down: the layer's own rows, `num_own` of them (0 where it makes its own output), then those of A.
        up: B of each slice, in pairs.
    """
    num_used = int(num_used_1)
    width = -(-num_used // RANKS_PER_BLOCK) * RANKS_PER_BLOCK
    rows = down[: num_own + len(up) * width]
    if not num_used and not num_own:
        y_T_O.zero_()
        return
    wide: torch.Tensor = ops.weight_packed_linear_cpu(x_T_I, rows, len(rows), None)
    if not num_used:
        y_T_O.copy_(wide)
        return
    blocks = wide[:, num_own:].reshape(len(wide), -1, len(up), RANKS_PER_BLOCK).transpose(1, 2)
    gated = blocks.flatten(2) * gates_T_G[: len(x_T_I), None, :width]
    plain = [pairs[: width // 2].transpose(1, 2).flatten(0, 1) for pairs in up]
    added = [gated[:, n].float() @ b_G_O.float() for n, b_G_O in enumerate(plain)]
    y_T_O.copy_(torch.cat(added, dim=1) + (wide[:, :num_own].float() if num_own else 0.0))


@functools.cache
def _define_operation() -> torch.library.Library:
    """Once in a process, and only where it is used: it may have to be compiled."""
    library = torch.library.Library("steer", "FRAGMENT")
    library.define(f"packed_linear{torch.library.infer_schema(packed_linear, mutates_args=('y_T_O',))}")
    torch.library.register_fake("steer::packed_linear", lambda *_: None, lib=library)
    if not load_operation(Path(__file__).with_name("packed_linear.cpp"), COMPILER_FLAGS):
        library.impl("packed_linear", packed_linear, "CPU")
    return library
