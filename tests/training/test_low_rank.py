from __future__ import annotations

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from steer_server.training.low_rank import FastLora, lora_config, low_rank_linear


class OneLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(12, 7, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self.q_proj(x)
        return projected


def test_the_update_and_its_gradients_are_those_of_the_formula() -> None:
    """x Wᵀ + (x Aᵀ) Bᵀ, differentiated by torch itself."""
    torch.manual_seed(0)
    base = nn.Linear(12, 7).requires_grad_(False)
    x, a, b = (torch.randn(shape, requires_grad=True) for shape in ((2, 5, 12), (3, 12), (7, 3)))
    upstream = torch.randn(2, 5, 7)
    found = torch.autograd.grad(low_rank_linear(x, base, a, b), (x, a, b), upstream)
    expected = torch.autograd.grad(base(x) + (x @ a.T) @ b.T, (x, a, b), upstream)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_factors_stay_float32_beside_a_bf16_model() -> None:
    base, x = nn.Linear(12, 7, dtype=torch.bfloat16), torch.randn(4, 12, dtype=torch.bfloat16)
    a, b = torch.randn(3, 12, requires_grad=True), torch.randn(7, 3, requires_grad=True)
    y = low_rank_linear(x, base, a, b)
    to_a, to_b = torch.autograd.grad(y.float().sum(), (a, b))
    assert (y.dtype, to_a.dtype, to_b.dtype) == (torch.bfloat16, torch.float32, torch.float32)


def test_a_fast_layer_answers_as_pefts_own_and_switches_off_to_the_base() -> None:
    torch.manual_seed(0)
    plain, x = OneLayer(), torch.randn(4, 12)
    base = plain(x)
    config = lora_config(3, 6, ("q_proj",))
    config.task_type = None
    fast = get_peft_model(plain, config)
    assert isinstance(fast.get_base_model().q_proj, FastLora)
    with torch.no_grad():
        fast.get_base_model().q_proj.lora_B["default"].weight.normal_()
    steered = fast(x)
    with fast.disable_adapter():
        torch.testing.assert_close(fast(x), base, rtol=0, atol=0)
    state = {k: v.clone() for k, v in fast.state_dict().items()}
    other = OneLayer()
    pefts = get_peft_model(other, LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj"]))
    pefts.load_state_dict(state)
    torch.testing.assert_close(pefts(x), steered)
