from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from steer_server.training.svd_lora import SvdLora, SvdLoraLinear
from tests.support.adapters import TINY
from tests.support.tiny_model import tiny_model_with_weights

IDS = torch.arange(2, 12)[None]
LAMBDA = (0.2, 0.5, 0.3)


def tiny(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_pretrained(tiny_model_with_weights(folder / TINY))


def trained(model: Any) -> SvdLora:
    """As after training: no parameter is where it started."""
    lora = SvdLora(model, num_shared=2, num_axes=3, scale=2.0, seed=1)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in lora.parameters.values():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return lora


def test_a_layer_adds_u_diag_v_to_its_weight() -> None:
    """W = W0 + U diag(σ_1..σ_k, s·λ_1..s·λ_m) Vᵀ."""
    base = torch.nn.Linear(6, 5)
    layer = SvdLoraLinear(base, 2, 3, 2.0, torch.Generator().manual_seed(0))
    with torch.no_grad():
        layer.u_out_R.normal_()
        layer.sigma_k.copy_(torch.tensor([0.5, -1.5]))
    layer.preference_m = torch.tensor(LAMBDA)
    s = layer.s.item()
    diagonal = torch.diag(torch.tensor([0.5, -1.5, *(s * share for share in LAMBDA)]))
    weight = base.weight + layer.u_out_R @ diagonal @ layer.vt_R_in
    x = torch.randn(4, 6)
    assert torch.allclose(layer(x), x @ weight.T + base.bias, atol=1e-5)


def test_every_rank_of_an_axis_has_its_weight() -> None:
    """k = 0, n = 2: W = W0 + s U diag(λ_1, λ_1, λ_2, λ_2) Vᵀ, which is W0 where λ is 0."""
    base = torch.nn.Linear(6, 5)
    layer = SvdLoraLinear(base, 0, 2, 2.0, torch.Generator().manual_seed(0), ranks_per_axis=2)
    with torch.no_grad():
        layer.u_out_R.normal_()
    layer.preference_m = torch.tensor([0.75, 0.25])
    diagonal = layer.s.item() * torch.diag(torch.tensor([0.75, 0.75, 0.25, 0.25]))
    x = torch.randn(4, 6)
    assert torch.allclose(
        layer(x), x @ (base.weight + layer.u_out_R @ diagonal @ layer.vt_R_in).T + base.bias, atol=1e-5
    )
    a_R_in, b_out_R = layer.exported()
    gates = torch.diag(torch.tensor([0.75, 0.75, 0.25, 0.25]))
    assert torch.allclose(layer(x) - base(x), x @ (b_out_R @ gates @ a_R_in).T, atol=1e-5)
    layer.preference_m = torch.zeros(2)
    assert torch.equal(layer(x), base(x))


def test_an_untrained_adapter_changes_nothing_and_can_learn(tmp_path: Path) -> None:
    model = tiny(tmp_path)
    before = model(IDS).logits
    lora = SvdLora(model, 2, 3, 2.0, seed=1)
    lora.set_preference(LAMBDA)
    assert torch.equal(model(IDS).logits, before)
    optimizer = torch.optim.SGD(lora.parameters.values(), lr=1.0)
    model(IDS).logits.square().mean().backward()
    layer = next(iter(lora.layers.values()))
    assert layer.u_out_R.grad is not None and (layer.u_out_R.grad.abs().sum(0) > 0).all()
    assert layer.base.weight.grad is None
    optimizer.step()
    model(IDS).logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in lora.parameters.values())


def test_the_export_under_gates_is_the_trained_model(tmp_path: Path) -> None:
    """A' = Vᵀ, B' = U diag(σ, s..s): with g = (1..1, λ), W0 + B' diag(g) A' computes what training did."""
    model = tiny(tmp_path)
    lora = trained(model)
    lora.set_preference(LAMBDA)
    wanted = model(IDS).logits
    tensors = lora.exported(torch.float32)
    with lora.reference():
        plain = model(IDS).logits
    lora.unwrap()
    assert torch.equal(model(IDS).logits, plain)
    gates = torch.diag(torch.tensor([1.0, 1.0, *LAMBDA]))
    with torch.no_grad():
        for name in lora.layers:
            prefix = f"base_model.model.{name}"
            a, b = tensors[f"{prefix}.lora_A.weight"], tensors[f"{prefix}.lora_B.weight"]
            model.get_submodule(name).weight += b @ gates @ a
    assert torch.allclose(model(IDS).logits, wanted, atol=1e-4)
    assert not torch.allclose(plain, wanted, atol=1e-2)


def test_the_base_model_comes_back_when_no_preference_is_set(tmp_path: Path) -> None:
    model = tiny(tmp_path)
    before = model(IDS).logits
    lora = trained(model)
    with lora.reference():
        assert torch.equal(model(IDS).logits, before) and not torch.is_grad_enabled()
    lora.set_preference((1.0, 0.0, 0.0))
    one = model(IDS).logits
    lora.set_preference((0.0, 1.0, 0.0))
    assert not torch.allclose(model(IDS).logits, one, atol=1e-3)


def test_a_preference_has_a_weight_per_axis(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 weights for 3 axes"):
        trained(tiny(tmp_path)).set_preference((0.5, 0.5))


def test_the_lm_head_is_left_alone(tmp_path: Path) -> None:
    lora = trained(tiny(tmp_path))
    assert lora.target_modules == sorted(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    )
