"""The bank's sum against PEFT's own forward pass, through PEFT's own loader, on a shipped-format adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steer_server.engine.bank import GateTable, LayerBank
from tests.support.adapters import TINY, random_adapter, tiny_base_model

pytestmark = [
    # PEFT's own imports warn.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def test_a_layer_of_the_bank_equals_pefts_layer_for_a_blend(tmp_path: Path) -> None:
    """PEFT runs two adapters one after the other and their weighted deltas add; the bank does it at once."""
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    base = tiny_base_model(tmp_path / TINY)
    for name in ("a", "b"):
        random_adapter(tmp_path, name, base, size=0.5)
    weights = {"a": 0.7, "b": 0.3}
    plain = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base.path)).float()
    wrapped = PeftModel.from_pretrained(plain, str(tmp_path / "a"), adapter_name="a")
    wrapped.load_adapter(str(tmp_path / "b"), adapter_name="b")
    layer = wrapped.base_model.model.model.layers[0].self_attn.q_proj

    gates = GateTable(2, 8, 2 * 4, dtype=torch.float32, device=torch.device("cpu"))
    bank = LayerBank(32, (32,), 2, 4, gates, dtype=torch.float32, device=torch.device("cpu"))
    for slot, name in enumerate(weights):
        bank.a_views()[0][slot, 0] = layer.lora_A[name].weight.detach()
        bank.b_views()[0][slot, 0] = layer.lora_B[name].weight.detach() * layer.scaling[name]
    gates.put(1, [0.7] * 4 + [0.3] * 4, keep=set())
    gates.fill([1] * 8)

    x = torch.randn(8, 32)
    with torch.no_grad():
        expected = layer.base_layer(x)
        for name, weight in weights.items():
            wrapped.set_adapter(name)
            expected = expected + weight * (layer(x) - layer.base_layer(x))
        found = layer.base_layer(x).clone()
        bank.add_to(found, x)
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, layer.base_layer(x), atol=1e-2)
