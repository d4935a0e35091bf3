"""The gated adapter bank: every adapter's low-rank pair side by side, and one gate vector per token.

For token t of a request with gate vector g, in every wrapped linear layer,

    y_t = W x_t + B_bank (g ⊙ (A_bank x_t))

Two dense products and one element-wise product, whatever number of different blends is in the batch. Only
torch is used here, so the same code runs on CPU and CUDA and under torch.compile.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


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
        self._row_of: dict[int, int] = {}
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
        self.rows_P_G[row].copy_(torch.tensor(gates_G, dtype=self.rows_P_G.dtype))
        self._row_of[plan_id] = row

    def fill(self, plan_ids: Sequence[int]) -> None:
        """Sets the gates of the coming step.

        Semantics: gates[t] = rows[row_of(plan_ids[t])] for t < len(plan_ids), 0 behind; id 0 is no plan.

        Raises: KeyError for a plan that was never put: a token must not go unsteered in silence.
        """
        count = len(plan_ids)
        distinct, inverse = np.unique(np.asarray(plan_ids, dtype=np.int64), return_inverse=True)
        rows = np.array([self._row_of[int(i)] if i else 0 for i in distinct], dtype=np.int64)
        busy = max(count, self._num_filled)
        staged = self._staged_T[:busy].numpy()
        staged[:count] = rows[inverse]
        staged[count:] = 0
        self._index_T[:busy].copy_(self._staged_T[:busy], non_blocking=True)
        torch.index_select(self.rows_P_G, 0, self._index_T[:busy], out=self.gates_T_G[:busy])
        self._num_filled = count


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
    ) -> None:
        width = num_slots * rank
        self.out_slices = tuple(out_slices)
        self.num_slices = len(self.out_slices)
        self.width = width
        self.gates_T_G = gates.gates_T_G
        self.a_NG_I = torch.zeros(self.num_slices * width, in_features, dtype=dtype, device=device)
        self.b_O_G = tuple(torch.zeros(o, width, dtype=dtype, device=device) for o in self.out_slices)
        self._num_slots, self._rank = num_slots, rank

    def a_views(self) -> tuple[torch.Tensor, ...]:
        """Per slice a `[S, 1, R, in]` view, the layout into which vLLM writes A."""
        stacked = self.a_NG_I.view(self.num_slices, self._num_slots, self._rank, -1)
        return tuple(stacked[i].unsqueeze(1) for i in range(self.num_slices))

    def b_views(self) -> tuple[torch.Tensor, ...]:
        """Per slice a `[S, 1, out, R]` view, the layout into which vLLM writes B (with the scale)."""
        return tuple(
            b.view(-1, self._num_slots, self._rank).permute(1, 0, 2).unsqueeze(1) for b in self.b_O_G
        )

    def add_to(self, y_T_O: torch.Tensor, x_T_I: torch.Tensor) -> None:
        """Adds the gated bank to the layer's output, in place.

        Semantics: y[:, slice_i] += (gates ⊙ (x A_iᵀ)) B_iᵀ for each packed slice i.
        """
        num_tokens = x_T_I.shape[0]
        gates = self.gates_T_G[:num_tokens]
        h = torch.mm(x_T_I, self.a_NG_I.t())
        if self.num_slices == 1:
            y_T_O.add_(torch.mm(h * gates, self.b_O_G[0].t()))
            return
        gated = h.view(num_tokens, self.num_slices, self.width) * gates.unsqueeze(1)
        added = [torch.mm(gated[:, i], b.t()) for i, b in enumerate(self.b_O_G)]
        y_T_O.add_(torch.cat(added, dim=-1))


def bank_bytes(
    layers: Sequence[tuple[int, Sequence[int]]], num_slots: int, rank: int, element_bytes: int = 2
) -> int:
    """Memory of the bank: element_bytes * S * R * Σ over layers of (slices * in + Σ out).

    Args:
        layers: (in_features, out_slices) of every wrapped layer.
    """
    per_rank = sum(len(outs) * in_features + sum(outs) for in_features, outs in layers)
    return element_bytes * num_slots * rank * per_rank
