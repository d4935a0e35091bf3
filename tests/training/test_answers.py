from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from steer_server.training.answers import (
    AnswerEncoder,
    answer_log_probs,
    kl_to_base,
    position_logits,
    survey_loss,
)
from steer_server.training.example import Example
from tests.support.adapters import TINY
from tests.support.tiny_model import tiny_model_with_weights

WORDS = Example("Tea or coffee?", ("tea.", "coffee.", "no."), (0.5, 0.3, 0.2), is_whole=True)
LETTERS = Example("A. tea B. coffee?", ("A", "B"), (0.6, 0.4), is_whole=False)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_answers_that_branch_off_one_prompt_score_as_each_alone(tmp_path: Path, attention: str) -> None:
    """log P(answer | prompt) = Σ_t log softmax(z_t)[token_t], one plain pass per answer as the reference."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_model_with_weights(tmp_path / TINY)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention)
    encoder = AnswerEncoder(AutoTokenizer.from_pretrained(folder))
    batch = encoder.batch([WORDS, LETTERS])
    with torch.no_grad():
        found = answer_log_probs(position_logits(model, batch), batch)
        for example, log_probs in zip((WORDS, LETTERS), found, strict=True):
            prompt = encoder.prompt_ids(example)
            for answer, log_prob in zip(encoder.answer_ids(example), log_probs, strict=True):
                logits = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
                alone = sum(logits[len(prompt) - 1 + t, token] for t, token in enumerate(answer))
                assert float(log_prob) == pytest.approx(float(alone), abs=1e-4)


def test_whole_answers_end_the_turn_and_letters_do_not(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_with_weights(tmp_path / TINY))
    encoder = AnswerEncoder(tokenizer)
    assert [len(ids) for ids in encoder.answer_ids(WORDS)] == [5, 8, 4]
    assert all(ids[-1] == tokenizer.eos_token_id for ids in encoder.answer_ids(WORDS))
    assert [len(ids) for ids in encoder.answer_ids(LETTERS)] == [1, 1]
    assert encoder.num_tokens(WORDS) == len(encoder.prompt_ids(WORDS)) + 4 + 7 + 3


def test_the_loss_is_the_divergence_of_the_answers_from_peoples_shares() -> None:
    log_probs = [torch.log(torch.tensor([0.5, 0.25])), torch.log(torch.tensor([0.9, 0.1]))]
    shares = [(0.5, 0.5), (1.0, 0.0)]
    by_hand = (0.5 * torch.log(torch.tensor(2.0)) + -torch.log(torch.tensor(0.9))) / 2
    assert float(survey_loss(log_probs, shares)) == pytest.approx(float(by_hand))
    exact = [torch.log(torch.tensor(s).clamp_min(1e-30)) for s in shares]
    assert float(survey_loss(exact, shares)) == pytest.approx(0.0, abs=1e-6)


def test_closeness_is_the_kl_divergence_from_the_base() -> None:
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1]])
    expected = 0.5 * torch.log(torch.tensor(0.5 / 0.9)) + 0.5 * torch.log(torch.tensor(0.5 / 0.1))
    assert kl_to_base(q.log(), p.log()) == pytest.approx(float(expected))
    assert kl_to_base(p.log(), p.log()) == pytest.approx(0.0)


def test_what_prompts_share_is_computed_once_and_learns_as_if_it_were_not(tmp_path: Path) -> None:
    """Gradients of one batch against the mean of the gradients of each example on its own."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_model_with_weights(tmp_path / TINY)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    encoder = AnswerEncoder(AutoTokenizer.from_pretrained(folder))
    weight = model.model.layers[0].self_attn.k_proj.weight

    def gradient(examples: list[Example]) -> torch.Tensor:
        batch = encoder.batch(examples)
        loss = survey_loss(answer_log_probs(position_logits(model, batch), batch), batch.shares)
        return torch.autograd.grad(loss, weight)[0]

    letters = replace(LETTERS, prompt=WORDS.prompt + " A. tea B. coffee")
    common = encoder.batch([WORDS, letters]).common_ids_F.numel()
    assert 0 < common < len(encoder.prompt_ids(WORDS))
    alone = (gradient([WORDS]) + gradient([letters])) / 2
    torch.testing.assert_close(gradient([WORDS, letters]), alone, rtol=1e-3, atol=1e-6)
