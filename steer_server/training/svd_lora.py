"""SVD-LoRA with preference ranks: one low-rank update per linear layer that a preference vector dials.

Nothing keeps the columns of U and V orthonormal: "singular value" is the method's word, not a property.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from steer_server.training.low_rank import low_rank_linear


class SvdLoraLinear(nn.Module):
    """A frozen linear layer with k shared ranks and n ranks for each of m axes, R = k + n m.

    *Semantics*: `W = W0 + U diag(σ_1..σ_k, s·λ_1..s·λ_m) Vᵀ`, each λ_i n times in a row; without the second
    term when λ is None. Panacea has n = 1. With k = 0 a weight of 0 takes all of its axis away.

    σ (k numbers) and s (one) are learned, λ is set from outside. U starts at zero, so that the update is zero
    and the first gradient reaches U alone; it reaches V, σ and s once U has moved.
    """

    def __init__(
        self,
        base: nn.Linear,
        num_shared: int,
        num_axes: int,
        scale: float,
        generator: torch.Generator,
        ranks_per_axis: int = 1,
    ) -> None:
        super().__init__()
        self.base, self.ranks_per_axis = base, ranks_per_axis
        rank = num_shared + num_axes * ranks_per_axis
        bound = base.in_features**-0.5
        vt = torch.empty(rank, base.in_features).uniform_(-bound, bound, generator=generator)
        device = base.weight.device
        self.vt_R_in = nn.Parameter(vt.to(device))
        self.u_out_R = nn.Parameter(torch.zeros(base.out_features, rank, device=device))
        self.sigma_k = nn.Parameter(torch.full((num_shared,), scale, device=device))
        self.s = nn.Parameter(torch.tensor([scale], device=device))
        self.preference_m: torch.Tensor | None = None
        """λ; None turns the update off."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.preference_m is None:
            plain: torch.Tensor = self.base(x)
            return plain
        axes = self.preference_m.repeat_interleave(self.ranks_per_axis)
        diagonal_R = torch.cat([self.sigma_k, self.s * axes])
        return low_rank_linear(x, self.base, self.vt_R_in, self.u_out_R * diagonal_R)

    @torch.no_grad()
    def exported(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The update as plain LoRA factors for gates on its ranks.

        *Semantics*: `A' = Vᵀ [R, in]`, `B' = U diag(σ_1..σ_k, s..s) [out, R]`; with the gate
        `g = (1..1, λ_1..λ_m)` on the ranks, each λ_i n times, `B' diag(g) A'` is the trained update.
        """
        of_axes = self.vt_R_in.shape[0] - self.sigma_k.shape[0]
        folded_R = torch.cat([self.sigma_k, self.s.expand(of_axes)])
        return self.vt_R_in.clone(), self.u_out_R * folded_R


class SvdLora:
    """All linear layers of a causal model but the LM head, wrapped in place until `unwrap`.

    Args:
        scale: where σ and s start.
    """

    def __init__(
        self, model: Any, num_shared: int, num_axes: int, scale: float, seed: int, ranks_per_axis: int = 1
    ) -> None:
        self.model, self.num_axes = model, num_axes
        model.requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        head = model.get_output_embeddings()
        linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}
        self.layers = {
            name: SvdLoraLinear(module, num_shared, num_axes, scale, generator, ranks_per_axis)
            for name, module in linear.items()
        }
        for name, layer in self.layers.items():
            model.set_submodule(name, layer)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        return {
            f"{name}.{short}": parameter
            for name, layer in self.layers.items()
            for short, parameter in layer.named_parameters()
            if not short.startswith("base.")
        }

    @property
    def target_modules(self) -> list[str]:
        """Last parts of the wrapped layers' names."""
        return sorted({name.rsplit(".", 1)[-1] for name in self.layers})

    def set_preference(self, preference: Sequence[float] | None) -> None:
        """Writes λ (m numbers) into every layer; None is the base model."""
        if preference is not None and len(preference) != self.num_axes:
            raise ValueError(f"{len(preference)} weights for {self.num_axes} axes")
        vector = None
        if preference is not None:
            vector = torch.tensor(preference, dtype=torch.float32)
        for layer in self.layers.values():
            layer.preference_m = None if vector is None else vector.to(layer.s.device)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """The base model: no update and no gradients. λ is unset afterwards."""
        self.set_preference(None)
        with torch.no_grad():
            yield

    def exported(self, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
        """Tensors by PEFT's names for `lora_alpha = r`, that is scale 1. Axis i has ranks k + n i and on."""
        tensors = {}
        for name, layer in self.layers.items():
            a_R_in, b_out_R = layer.exported()
            prefix = f"base_model.model.{name}"
            tensors[f"{prefix}.lora_A.weight"] = a_R_in.to("cpu", dtype)
            tensors[f"{prefix}.lora_B.weight"] = b_out_R.to("cpu", dtype)
        return tensors

    def unwrap(self) -> None:
        """Puts the plain layers back."""
        for name, layer in self.layers.items():
            self.model.set_submodule(name, layer.base)
