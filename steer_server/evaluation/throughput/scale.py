"""`bench scale`: what the bank costs larger models on larger machines, by its formulas; nothing is run.

For S slots of rank R in layers of `in` inputs and `out` outputs, and B tokens in a step:

    memory      2 bytes * S R Σ (slices in + out)
    share       S R Σ (slices in + out) / Σ in out, the LM head among the model's weights: what a step reads
                and multiplies more; on CPU A's part is of the ranks that the step uses, in blocks of 32, and
                B's of those that a token uses
    gather      a kernel that reads only the k adapters which a token names reads B k R rows where the bank
                reads S R, and both multiply at the machine's speed once B is above its operations per byte,
                I. So the dense bank is the cheaper one up to S = k min(B, I) slots.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steer_server.engine.bank import RANKS_PER_BLOCK, bank_bytes
from steer_server.evaluation.html import Section, Table, write_all

BF16_BYTES = 2
BLENDED = 3
"""k: adapters in a blend."""
TOKENS = (1, 8, 32, 128, 512)
IN_USE = ((3, 3), (8, 3), (8, 8))
"""(adapters in a step, adapters of a token), of rank 8."""
RANK_IN_USE = 8


@dataclass(frozen=True)
class Shape:
    """A decoder of `layers` equal layers: attention with grouped keys, and a gated feed-forward part."""

    name: str
    layers: int
    hidden: int
    heads_out: int
    """Outputs of all query heads."""
    keys_out: int
    """Outputs of all key heads, and of all value heads."""
    feed_forward: int
    vocabulary: int

    @property
    def linear_layers(self) -> list[tuple[int, tuple[int, ...]]]:
        """(inputs, outputs of each packed slice) of one layer, as the engine packs them."""
        return [
            (self.hidden, (self.heads_out, self.keys_out, self.keys_out)),
            (self.heads_out, (self.hidden,)),
            (self.hidden, (self.feed_forward, self.feed_forward)),
            (self.feed_forward, (self.hidden,)),
        ]

    @property
    def num_weights(self) -> int:
        """Of all linear layers and the LM head."""
        one = sum(inputs * sum(outputs) for inputs, outputs in self.linear_layers)
        return self.layers * one + self.vocabulary * self.hidden

    def bank_bytes(self, num_slots: int, rank: int) -> int:
        return self.layers * bank_bytes(self.linear_layers, num_slots, rank, BF16_BYTES)

    def share(self, num_slots: int, rank: int) -> float:
        return self.share_in_use(num_slots * rank, num_slots * rank)

    def share_in_use(self, ranks_of_a: int, ranks_of_b: int) -> float:
        """Where a step multiplies only what it uses (`engine/packed.py`)."""
        a = sum(len(outputs) * inputs for inputs, outputs in self.linear_layers)
        b = sum(sum(outputs) for _, outputs in self.linear_layers)
        return self.layers * (ranks_of_a * a + ranks_of_b * b) / self.num_weights


SHAPES = (
    Shape("SmolLM2-135M", 30, 576, 576, 192, 1536, 49152),
    Shape("Qwen2.5-1.5B", 28, 1536, 1536, 256, 8960, 151936),
    Shape("Llama-3.1-8B", 32, 4096, 4096, 1024, 14336, 128256),
    Shape("Llama-3.1-70B", 80, 8192, 8192, 1024, 28672, 128256),
)


def in_use(shape: Shape, of_step: int, of_token: int) -> dict[str, Any]:
    """*Semantics*: `floor = 1 / (1 + share)` of the bare model's speed, if only linear layers took time."""
    of_a = -(-of_step * RANK_IN_USE // RANKS_PER_BLOCK) * RANKS_PER_BLOCK
    share = shape.share_in_use(of_a, of_token * RANK_IN_USE)
    return {
        "model": shape.name,
        "of_step": of_step,
        "of_token": of_token,
        "share": round(share, 4),
        "floor": round(1 / (1 + share), 3),
    }


def break_even_slots(tokens: int, blended: int, operations_per_byte: float) -> float:
    """Slots up to which the dense bank costs no more than a gather: `k min(B, I)`."""
    return blended * min(tokens, operations_per_byte)


def show_scale(banks: Sequence[tuple[int, int]], operations_per_byte: float, out: Path) -> None:
    """Prints tables and one line of JSON, and writes `out/report.json` and `out/report.html`.

    Args:
        banks: (slots, rank).
        operations_per_byte: I of the machine: its peak bf16 operations over its memory's bytes per second.
    """
    rows = [
        {
            "model": shape.name,
            "slots": slots,
            "rank": rank,
            "bank_mib": round(shape.bank_bytes(slots, rank) / 2**20, 1),
            "model_mib": round(BF16_BYTES * shape.num_weights / 2**20),
            "share": round(shape.share(slots, rank), 4),
        }
        for shape in SHAPES
        for slots, rank in banks
    ]
    slots_at = {tokens: break_even_slots(tokens, BLENDED, operations_per_byte) for tokens in TOKENS}
    used = [in_use(shape, *adapters) for shape in SHAPES for adapters in IN_USE]
    results: dict[str, Any] = {
        "server": {"engine": "none: formulas"},
        "banks": rows,
        "in_use": used,
        "operations_per_byte": operations_per_byte,
        "break_even_slots": slots_at,
    }
    size = Table(
        ["model", "slots x rank", "bank MiB", "model MiB", "more to read and multiply"],
        [
            [
                str(row["model"]),
                f"{row['slots']} x {row['rank']}",
                f"{row['bank_mib']:.0f}",
                f"{row['model_mib']}",
                f"{row['share']:.1%}",
            ]
            for row in rows
        ],
        "The bank beside the model's linear layers and LM head, bf16",
    )
    crossover = Table(
        ["tokens in a step", "slots"],
        [[str(tokens), f"{slots:.0f}"] for tokens, slots in slots_at.items()],
        f"Slots up to which all of them in one product cost no more than a gather of {BLENDED} per token, at "
        f"{operations_per_byte:g} operations per byte",
    )
    part = Table(
        ["model", "adapters in a step", "of a token", "more to multiply", "speed left"],
        [
            [
                str(row["model"]),
                str(row["of_step"]),
                str(row["of_token"]),
                f"{row['share']:.1%}",
                f"{row['floor']:.3f}",
            ]
            for row in used
        ],
        f"On CPU, where a step multiplies what it uses: adapters of rank {RANK_IN_USE} in the first slots",
    )
    sections = [
        Section("Size", "", [size]),
        Section("What a step uses", "", [part]),
        Section("When a gather is cheaper", "", [crossover]),
    ]
    write_all(out, "Scale: the bank in larger models", results, sections, [size, part, crossover])
    print(json.dumps({"break_even_slots": slots_at}))
