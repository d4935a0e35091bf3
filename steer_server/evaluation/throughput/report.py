"""What `bench throughput` shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steer_server.evaluation.html import COLOURS, Section, Table, add_legend, new_figure

MARKS = ("o-", "s--", "^--", "v:", "x:", "D-", "P-", "*-", "h-")


def tables(results: Mapping[str, Any]) -> list[Table]:
    return [decode_table(results), first_token_table(results)]


def decode_table(results: Mapping[str, Any]) -> Table:
    return _table(
        results, "decode_tokens_per_second", "decode_ratio", "tokens/s", "Decode; ratios to no LoRA"
    )


def first_token_table(results: Mapping[str, Any]) -> Table:
    caption = "Time to everyone's first token, of prompts that come at once; ratios to no LoRA"
    return _table(results, "first_token_ms", "first_token_ratio", "ms", caption)


def _table(results: Mapping[str, Any], value: str, ratio: str, unit: str, caption: str) -> Table:
    batches = results["batches"]
    header = ["way", *(f"{b}: {unit}" for b in batches), *(f"{b}: ratio" for b in batches)]
    rows = [
        [
            found["label"],
            *(f"{found[value][b]:.0f}" for b in batches),
            *(f"{found[ratio][b]:.2f}" for b in batches),
        ]
        for found in results["workloads"].values()
    ]
    return Table(header, rows, caption)


def sections(results: Mapping[str, Any]) -> list[Section]:
    share = results["bank_share"]
    text = (
        "Columns are numbers of requests that run at once. Medians over rounds; each ratio is to a run of "
        f"the model without LoRA just before. The bank has {share['slots']} slots of rank {share['rank']}: "
        f"as many weights as {share['share']:.1%} of the model's linear layers and LM head, so "
        f"{share['floor']:.2f} would be left of the speed if every token used it whole and nothing else took "
        "time. On CPU a step uses its part alone, of which `bench scale` tells. Attention, sampling and "
        "scheduling take time too, and the bank adds nothing to them, so a ratio may lie above it."
    )
    first_tokens = (
        "A prompt goes through the layers whole and through the LM head with its last token alone, so the "
        f"bank, used whole, makes it {share['first_token_floor']:.2f} times the operations."
    )
    figure = new_figure(8.0, 4.5)
    (axes,) = figure.axes
    batches = results["batches"]
    for i, found in enumerate(results["workloads"].values()):
        axes.plot(
            range(len(batches)),
            [found["decode_ratio"][b] for b in batches],
            MARKS[i % len(MARKS)],
            color=COLOURS[i % len(COLOURS)],
            label=found["label"],
        )
    axes.set_xticks(range(len(batches)), [str(b) for b in batches])
    axes.set_xlabel("requests at once")
    axes.set_ylabel("decode speed, ratio to no LoRA")
    axes.set_ylim(bottom=0)
    add_legend(figure, 2)
    return [
        Section("Decode", text, [decode_table(results)], [figure]),
        Section("First tokens", first_tokens, [first_token_table(results)]),
    ]
