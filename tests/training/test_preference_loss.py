from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from steer_server.training.answers import answer_log_probs, position_logits
from steer_server.training.preference_data import PreferencePair
from steer_server.training.preference_loss import (
    PairEncoder,
    dpo_loss,
    draw_axes,
    hardest_axis,
    held_certainty,
    margins,
    per_token,
    pull,
    sample_preference,
    sft_loss,
)
from tests.support.adapters import TINY
from tests.support.tiny_model import tiny_model_with_weights

TALK = (("user", "Hi"), ("assistant", "Yes?"), ("user", "Tea?"))


def pair(chosen: str, rejected: str, certainty: float = 1.0) -> PreferencePair:
    return PreferencePair("Tea?", "s", TALK, chosen, rejected, certainty)


def log_sigmoid(x: float) -> float:
    return -math.log(1 + math.exp(-x))


def test_the_margin_is_the_change_of_the_log_ratio() -> None:
    found = margins(torch.tensor([[-3.0, -5.0], [-1.0, -1.0]]), torch.tensor([[-4.0, -4.5], [-1.0, -1.0]]))
    assert found.tolist() == pytest.approx([(-3 + 5) - (-4 + 4.5), 0.0])


def test_the_dpo_loss_is_its_formula_and_log_2_at_the_reference() -> None:
    deltas, certainty, beta = [1.5, -0.5], [1.0, 2 / 3], 0.3
    wanted = [
        -p * log_sigmoid(beta * d) - (1 - p) * log_sigmoid(-beta * d)
        for d, p in zip(deltas, certainty, strict=True)
    ]
    found = dpo_loss(torch.tensor(deltas), torch.tensor(certainty), beta)
    assert float(found) == pytest.approx(sum(wanted) / 2)
    assert float(dpo_loss(torch.zeros(3), torch.ones(3), beta)) == pytest.approx(math.log(2))


def test_an_unsure_pair_pulls_back_beyond_its_certainty() -> None:
    delta = torch.tensor([50.0], requires_grad=True)
    dpo_loss(delta, torch.tensor([2 / 3]), 0.3).backward()
    assert delta.grad is not None and delta.grad.item() > 0


def test_both_answers_branch_off_a_whole_dialogue(tmp_path: Path) -> None:
    """log P of each answer, and -log π(y_w) / |y_w|, with one plain pass per answer as the reference."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_model_with_weights(tmp_path / TINY)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    encoder = PairEncoder(AutoTokenizer.from_pretrained(folder), max_answer_tokens=6)
    pairs = [pair("no", "yes please"), pair("green", "black")]
    batch = encoder.pairs(pairs)
    with torch.no_grad():
        found = torch.stack(answer_log_probs(position_logits(model, batch), batch))
        alone = []
        for one in pairs:
            for text in (one.chosen, one.rejected):
                prompt = encoder.tokenizer.encode("HiYes?Tea?")
                answer = encoder.tokenizer.encode(text)[:6]
                answer += [encoder.tokenizer.eos_token_id] if len(text) <= 6 else []
                logits = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
                alone.append(sum(float(logits[len(prompt) - 1 + t, token]) for t, token in enumerate(answer)))
    assert found.flatten().tolist() == pytest.approx(alone, abs=1e-4)
    assert per_token(found, batch).flatten().tolist() == pytest.approx(
        [alone[0] / 3, alone[1] / 6, alone[2] / 6, alone[3] / 6], abs=1e-4
    )
    assert float(sft_loss(found, batch)) == pytest.approx(-(alone[0] / 3 + alone[2] / 6) / 2, abs=1e-4)


def test_the_hardest_axis_is_the_largest_weighted_distance_from_its_ideal() -> None:
    losses, preference, ideal = [0.7, 0.5, 9.0], [0.3, 0.7, 0.0], [0.0, 0.3, 0.0]
    weighted = [w * (loss - z) for loss, w, z in zip(losses, preference, ideal, strict=True)]
    assert hardest_axis(losses, preference, ideal) == weighted.index(max(weighted)) == 0
    assert hardest_axis(losses, preference, [0.0, 0.0, 0.0]) == 1
    assert hardest_axis([0.1, 0.1, 9.0], preference, [1.0, 1.0, 1.0]) != 2, "weight 0 is no candidate"


def test_preferences_lie_on_the_simplex_and_reach_its_ends() -> None:
    drawn = [sample_preference(4, 1.0, 0.25, f"1:{step}") for step in range(2000)]
    assert all(sum(p) == pytest.approx(1) and min(p) >= 0 for p in drawn)
    vertices = [p for p in drawn if max(p) == 1.0]
    assert 0.2 < len(vertices) / len(drawn) < 0.3
    assert {p.index(1.0) for p in vertices} == {0, 1, 2, 3}
    means = [sum(p[i] for p in drawn) / len(drawn) for i in range(4)]
    assert means == pytest.approx([0.25] * 4, abs=0.03)
    assert sample_preference(4, 1.0, 0.25, "1:7") == drawn[7]
    assert sample_preference(1, 1.0, 0.0, "1:0") == [1.0]


def test_the_mean_loss_of_drawn_axes_estimates_the_linear_aggregate() -> None:
    """E[mean of L_axis over draws] = Σ_i v_i L_i / Σ_i v_i; without hold, v is λ."""
    preference, losses = [0.1, 0.0, 0.6, 0.3], [4.0, 100.0, 1.0, 2.0]
    assert [pull(weight, 0.0) for weight in preference] == preference
    for hold in (0.0, 0.5):
        counted = [pull(weight, hold) for weight in preference]
        draws = [draw_axes(counted, 2, f"1:{step}") for step in range(8000)]
        means = [sum(losses[axis] for axis in drawn) / 2 for drawn in draws]
        wanted = sum(v * loss for v, loss in zip(counted, losses, strict=True)) / sum(counted)
        assert sum(means) / len(means) == pytest.approx(wanted, rel=0.04)


@pytest.mark.parametrize(("weight", "hold"), [(1.0, 0.25), (0.0, 0.25), (0.4, 0.25), (0.7, 1.0), (0.3, 0.0)])
def test_a_held_label_is_the_weighed_loss_and_the_undecided_one(weight: float, hold: float) -> None:
    """v DPO(p') = λ DPO(p) + h (1 - λ) DPO(½)."""
    margin, certainty = torch.tensor([1.5, -0.3]), torch.tensor([1.0, 0.7])
    found = pull(weight, hold) * dpo_loss(margin, held_certainty(certainty, weight, hold), 0.5)
    undecided = dpo_loss(margin, torch.full_like(margin, 0.5), 0.5)
    wanted = weight * dpo_loss(margin, certainty, 0.5) + hold * (1 - weight) * undecided
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)


def test_an_axis_without_weight_is_pulled_back_to_the_reference() -> None:
    for start in (2.0, -2.0):
        margin = torch.tensor([start], requires_grad=True)
        torch.autograd.backward(dpo_loss(margin, held_certainty(torch.ones(1), 0.0, 0.25), 0.5))
        assert margin.grad is not None and float(margin.grad) * start > 0
