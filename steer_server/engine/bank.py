"""The gated adapter bank: every adapter's low-rank pair side by side, and one gate vector per token.

For token t of a request with gate vector g, in every wrapped linear layer,

    y_t = W x_t + B_bank (g ⊙ (A_bank x_t))

Two dense products and one element-wise product, whatever number of different blends is in the batch; the
first is one with the layer's own, `[W; A_bank] x`, where the layer's weights are plain. Only torch is used
here, so the same code runs on CPU and CUDA and under torch.compile; `packed.py` has quicker products for CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

RANKS_PER_BLOCK = 32
"""In which `packed.py` multiplies A, as its matrices are packed so."""


class GateTable:
    """Persistent gate vectors: one row per plan in flight, copied to one row per token before each step.

    The per-token buffer keeps its address for the whole run, so compiled graphs and CUDA graphs can read it.
    Row 0 of the table is all zeros: tokens of unsteered requests, and padding.
    """

    def __init__(
        self, num_plans: int, num_tokens: int, width: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Args:
        num_plans: plans that can be in one step.
        num_tokens: tokens that can be in one step, padding included.
        width: S * R, the ranks of the whole bank.
        """
        self.rows_P_G = torch.zeros(num_plans + 1, width, dtype=dtype, device=device)
        self.gates_T_G = torch.zeros(num_tokens, width, dtype=dtype, device=device)
        pinned = device.type == "cuda"
        self._staged_T = torch.zeros(num_tokens, dtype=torch.int64, pin_memory=pinned)
        self._index_T = torch.zeros(num_tokens, dtype=torch.int64, device=device)
        self.num_used_1 = torch.zeros(1, dtype=torch.int64)
        """How many of the bank's first ranks have a gate that is not 0 in this step; on the host."""
        self._row_of: dict[int, int] = {}
        self._used_by_row = np.zeros(num_plans + 1, dtype=np.int64)
        self._num_filled = 0

    def knows(self, plan_id: int) -> bool:
        return plan_id in self._row_of

    def forget_all(self) -> None:
        """Drops every plan; rows are given out anew."""
        self._row_of.clear()

    def put(self, plan_id: int, gates_G: Sequence[float], keep: set[int]) -> None:
        """Stores a plan's gates, in place of the oldest plan not in `keep` when the table is full."""
        if len(self._row_of) >= len(self.rows_P_G) - 1:
            oldest = next(known for known in self._row_of if known not in keep)
            row = self._row_of.pop(oldest)
        else:
            used = set(self._row_of.values())
            row = next(r for r in range(1, len(self.rows_P_G)) if r not in used)
        # Pinned, so that a step with a new plan does not wait for the device either.
        staged_G = torch.tensor(gates_G, dtype=self.rows_P_G.dtype, pin_memory=self._staged_T.is_pinned())
        self.rows_P_G[row].copy_(staged_G, non_blocking=True)
        self._used_by_row[row] = 1 + max(np.flatnonzero(gates_G), default=-1)
        self._row_of[plan_id] = row

    def fill(self, plan_ids: Sequence[int]) -> None:
        """Sets the gates of the coming step, and `num_used_1`.

        Semantics: gates[t] = rows[row_of(plan_ids[t])] for t < len(plan_ids), 0 behind; id 0 is no plan.

        Raises: KeyError for a plan that was never put: a token must not go unsteered in silence.
        """
        count = len(plan_ids)
        distinct, inverse = np.unique(np.asarray(plan_ids, dtype=np.int64), return_inverse=True)
        rows = np.array([self._row_of[int(i)] if i else 0 for i in distinct], dtype=np.int64)
        self.num_used_1[0] = int(self._used_by_row[rows].max(initial=0))
        busy = max(count, self._num_filled)
        staged = self._staged_T[:busy].numpy()
        staged[:count] = rows[inverse]
        staged[count:] = 0
        self._index_T[:busy].copy_(self._staged_T[:busy], non_blocking=True)
        torch.index_select(self.rows_P_G, 0, self._index_T[:busy], out=self.gates_T_G[:busy])
        self._num_filled = count


class Products(Protocol):
    """A layer's matrices in the form that makes its products quick."""

    a_NG_I: torch.Tensor
    """A of all packed slices, slice above slice. To write into; `refresh` afterwards."""
    b: tuple[torch.Tensor, ...]
    """B of each slice, `[out, G]`. Likewise."""
    weight_O_I: torch.Tensor
    """The layer's own weights as far as they are still kept plain; empty otherwise."""
    copies: int
    """How often A and B are in memory."""

    def __call__(self, x_T_I: torch.Tensor, gates: GateTable) -> torch.Tensor:
        """The layer's output with the gated bank in it, `[T, O]`; without its weights, the bank's part."""
        ...

    def refresh(self) -> None: ...


class MakeProducts(Protocol):
    def __call__(
        self, a_NG_I: torch.Tensor, b: Sequence[torch.Tensor], weight_O_I: torch.Tensor | None = None
    ) -> Products: ...


class DenseProducts:
    """By torch, with the whole bank: the sizes of every step are the same."""

    copies = 1

    def __init__(
        self, a_NG_I: torch.Tensor, b: Sequence[torch.Tensor], weight_O_I: torch.Tensor | None = None
    ) -> None:
        num_own = 0 if weight_O_I is None else len(weight_O_I)
        self.down = a_NG_I if weight_O_I is None else torch.cat([weight_O_I, a_NG_I])
        self.weight_O_I, self.a_NG_I = self.down[:num_own], self.down[num_own:]
        self.b = tuple(b)
        self.num_own, self.width = num_own, self.b[0].shape[1]

    def __call__(self, x_T_I: torch.Tensor, gates: GateTable) -> torch.Tensor:
        wide = torch.mm(x_T_I, self.down.t())
        gates_T_G = gates.gates_T_G[: x_T_I.shape[0]]
        parts = torch.split(wide[:, self.num_own :], self.width, dim=-1)
        added = [torch.mm(part * gates_T_G, b_O_G.t()) for part, b_O_G in zip(parts, self.b, strict=True)]
        added_T_O = added[0] if len(added) == 1 else torch.cat(added, dim=-1)
        return wide[:, : self.num_own] + added_T_O if self.num_own else added_T_O

    def refresh(self) -> None:
        pass


class LayerBank:
    """The bank's matrices of one linear layer, which may be packed from several (q/k/v, gate/up).

    Every layer has its own object, because torch.compile can trace attributes but not a lookup by layer.
    """

    def __init__(
        self,
        in_features: int,
        out_slices: Sequence[int],
        num_slots: int,
        rank: int,
        gates: GateTable,
        *,
        dtype: torch.dtype,
        device: torch.device,
        weight_O_I: torch.Tensor | None = None,
        products: MakeProducts = DenseProducts,
    ) -> None:
        """Args:
        weight_O_I: the layer's own, which then takes part in the bank's first product (`forward`). None: the
            layer makes its output itself (`add_to`), as a quantised one does.
        """
        self.has_base = weight_O_I is not None
        self._num_slots, self._rank, self._gates = num_slots, rank, gates
        width = num_slots * rank

        def zeros(rows: int, columns: int) -> torch.Tensor:
            return torch.zeros(rows, columns, dtype=dtype, device=device)

        b = [zeros(out, width) for out in out_slices]
        self.products = products(zeros(len(b) * width, in_features), b, weight_O_I)

    @property
    def num_bytes(self) -> int:
        """Memory of A and B, the layer's own weights not counted."""
        held = (self.products.a_NG_I, *self.products.b)
        return self.products.copies * sum(matrix.numel() * matrix.element_size() for matrix in held)

    def a_views(self) -> tuple[torch.Tensor, ...]:
        """Per slice a `[S, 1, R, in]` view, the layout into which vLLM writes A."""
        stacked = self.products.a_NG_I.view(len(self.products.b), self._num_slots, self._rank, -1)
        return tuple(one.unsqueeze(1) for one in stacked)

    def b_views(self) -> tuple[torch.Tensor, ...]:
        """Per slice a `[S, 1, out, R]` view, the layout into which vLLM writes B (with the scale)."""
        return tuple(
            b_O_G.view(-1, self._num_slots, self._rank).permute(1, 0, 2).unsqueeze(1)
            for b_O_G in self.products.b
        )

    def refresh(self) -> None:
        """To be called after the views were written to."""
        self.products.refresh()

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """The layer's output with the gated bank in it, `[..., O]`.

        Semantics: y = x Wᵀ + bias; y[:, slice_i] += (gates ⊙ (x A_iᵀ)) B_iᵀ for each packed slice i.
        """
        y_T_O = self.products(x.flatten(0, -2), self._gates)
        if bias is not None:
            y_T_O = y_T_O + bias
        return y_T_O.view(*x.shape[:-1], y_T_O.shape[-1])

    def add_to(self, y_T_O: torch.Tensor, x_T_I: torch.Tensor) -> None:
        """Adds the gated bank to the layer's output, in place.

        Semantics: y[:, slice_i] += (gates ⊙ (x A_iᵀ)) B_iᵀ for each packed slice i.
        """
        y_T_O.add_(self.products(x_T_I, self._gates))


def bank_bytes(
    layers: Sequence[tuple[int, Sequence[int]]],
    num_slots: int,
    rank: int,
    element_bytes: int = 2,
    copies: int = 1,
) -> int:
    """Memory of the bank: copies * element_bytes * S * R * Σ over layers of (slices * in + Σ out).

    Args:
        layers: (in_features, out_slices) of every wrapped layer.
        copies: 2 where products read a packed copy (`packed.py`).
    """
    per_rank = sum(len(outs) * in_features + sum(outs) for in_features, outs in layers)
    return copies * element_bytes * num_slots * rank * per_rank
