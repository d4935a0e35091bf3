"""Several LoRAs side by side as one, each in ranks of its own, for gates that are told apart by rank."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file

from steer_server.catalogue.manifest import PEFT_CONFIG, WEIGHTS
from steer_server.catalogue.snapshot import LoadedAdapter

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Concatenated:
    """PEFT's tensors for scale 1 (`lora_alpha = r`), and who has which ranks."""

    tensors: dict[str, torch.Tensor]
    blocks: tuple[tuple[int, int], ...]
    """[first, behind the last] of each LoRA's ranks, in their order."""
    target_modules: tuple[str, ...]

    @property
    def rank(self) -> int:
        return self.blocks[-1][1]


def concat_loras(adapters: Sequence[LoadedAdapter]) -> Concatenated:
    """The validated adapters as one.

    Semantics: `A = [A_1; ...; A_n]`, `B = [s_1 B_1, ..., s_n B_n]` with `s_i` alpha/rank or alpha/√rank, so
    that with the gate g_i on the ranks of i, `B diag(g) A = Σ g_i s_i B_i A_i`. In a layer that an adapter
    leaves as it is, its ranks are zero. A tensor's type is the widest of its parts'.
    """
    import torch

    blocks: list[tuple[int, int]] = []
    for adapter in adapters:
        first = blocks[-1][1] if blocks else 0
        blocks.append((first, first + adapter.rank))
    rank = blocks[-1][1]
    stacked: dict[str, torch.Tensor] = {}
    for adapter, (first, stop) in zip(adapters, blocks, strict=True):
        scale = _scale(adapter.folder)
        for key, tensor in load_file(adapter.folder / WEIGHTS).items():
            is_a = key.endswith(".lora_A.weight")
            shape = (rank, tensor.shape[1]) if is_a else (tensor.shape[0], rank)
            whole = stacked.get(key, torch.zeros(shape, dtype=tensor.dtype))
            whole = whole.to(torch.promote_types(whole.dtype, tensor.dtype))
            block = whole[first:stop] if is_a else whole[:, first:stop]
            block.copy_(tensor if is_a else tensor.float() * scale)
            stacked[key] = whole
    suffixes = {key.removesuffix(".weight").rsplit(".", 2)[-2] for key in stacked}
    return Concatenated(stacked, tuple(blocks), tuple(sorted(suffixes)))


def _scale(folder: Path) -> float:
    config = json.loads((folder / PEFT_CONFIG).read_text())
    rank, alpha = config["r"], config["lora_alpha"]
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
