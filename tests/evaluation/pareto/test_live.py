"""Preference pairs on the real server, against the trainer's own log-probabilities in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.manifest import read_manifest
from steer_server.evaluation.answers import Reader, Setting
from steer_server.evaluation.client import ServerClient
from steer_server.evaluation.pareto.pair_reader import PairReader
from steer_server.training.answers import answer_log_probs, position_logits
from steer_server.training.preference_data import PreferencePair
from steer_server.training.preference_loss import PairEncoder, pair_example
from tests.support.servers import Running

pytestmark = pytest.mark.engine

MAX_PROMPT_TOKENS, MAX_ANSWER_TOKENS = 40, 12
FLOAT32_TOLERANCE = 2e-3
"""Nats per answered token, as in the engine's own comparison with float32."""
ASK = "How do I keep tomato plants healthy through a dry summer?"
PAIRS = [
    PreferencePair("a", "s", (("user", "Do you like risks?"),), "No", "Yes", 1.0),
    PreferencePair(
        "b",
        "s",
        (("user", "Hello there."), ("assistant", "Hello! What is on your mind?"), ("user", ASK)),
        "Water them early in the morning, mulch the soil and give them shade in the afternoon.",
        "I do not know.",
        1.0,
    ),
]
VALUES = {"helpful": 0.7, "harmless": 0.3}


@pytest.mark.parametrize(
    "setting", [Setting("base"), Setting.of_values("values", VALUES)], ids=lambda s: s.name
)
async def test_log_probabilities_equal_the_trainers(
    vllm_float32: Running, builtin: BaseModel, live_adapters: tuple[Path, list[str]], setting: Setting
) -> None:
    encoder, model = reference(builtin, live_adapters[0] / "values", dict(setting.values))
    async with ServerClient(vllm_float32.url) as client:
        pairs = PairReader(Reader(client, vllm_float32.model), MAX_PROMPT_TOKENS, MAX_ANSWER_TOKENS)
        await pairs.check_system_turn()
        for pair in PAIRS:
            encoded = await pairs.encode(pair)
            example = pair_example(pair)
            assert list(encoded.prompt) == encoder.prompt_ids(example)
            assert [list(encoded.chosen), list(encoded.rejected)] == encoder.answer_ids(example)
            batch = encoder.pairs([pair])
            with torch.no_grad():
                (expected,) = answer_log_probs(position_logits(model, batch), batch)
            tolerance = FLOAT32_TOLERANCE * len(encoded.chosen)
            assert await pairs.log_probs(setting, encoded) == pytest.approx(expected.tolist(), abs=tolerance)


def reference(base: BaseModel, adapter: Path, values: dict[str, float]) -> tuple[PairEncoder, Any]:
    """The trainer's encoder, and the model in float32 with the preference vector in the adapter's gates."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    encoder = PairEncoder(AutoTokenizer.from_pretrained(base.path), MAX_PROMPT_TOKENS, MAX_ANSWER_TOKENS)
    model: Any = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    if values:
        model = PeftModel.from_pretrained(model, str(adapter))
        for axis in read_manifest(adapter).axes:
            for name, weight in model.named_parameters():
                if "lora_A" in name:
                    weight.data[axis.ranks.start : axis.ranks.stop] *= values.get(axis.id, 0.0)
    return encoder, model
