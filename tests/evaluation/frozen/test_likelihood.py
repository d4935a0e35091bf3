from __future__ import annotations

import pytest
import torch

from steer_server.evaluation.client import ServerClient
from steer_server.evaluation.frozen.answers import Answered, Work
from steer_server.evaluation.frozen.asking import Asker, Given, ask_once, base_way
from steer_server.evaluation.frozen.likelihood import BaseLikelihood, read_likelihoods
from steer_server.evaluation.frozen.ways import Aim
from steer_server.evaluation.judge_prompts import Messages
from steer_server.evaluation.samples import Sampling
from tests.evaluation.conftest import JudgesPlace

PROMPT: Messages = (("user", "tea?"),)


def given(text: str, draft: str) -> Given:
    outcome = "improved" if text != draft else "draft"
    return Given(text, False, 1, 1, {"denoising": {"outcome": outcome, "draft": draft}})


def test_a_likelihood_is_the_mean_log_probability_of_the_answers_tokens(place: JudgesPlace) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = BaseLikelihood(place.base).per_token(PROMPT, "yes please")
    tokenizer = AutoTokenizer.from_pretrained(place.base.path)
    messages = [{"role": "user", "content": "tea?"}]
    before = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = [*tokenizer.encode(before, add_special_tokens=False)]
    answer = tokenizer.encode("yes please", add_special_tokens=False)
    model = AutoModelForCausalLM.from_pretrained(place.base.path, dtype=torch.bfloat16).eval()
    total = 0.0
    for token in answer:
        with torch.no_grad():
            total += float(model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)[token])
        ids.append(token)
    assert len(answer) > 1 and found == pytest.approx(total / len(answer), rel=0.02)
    assert BaseLikelihood(place.base).per_token(PROMPT, "") == 0


def test_only_what_was_changed_is_read_beside_its_draft(place: JudgesPlace) -> None:
    asker = Asker(ServerClient("http://test"), "m", "m", "kind", 5, Sampling(), {}, "")
    aim = Aim("kind", "", (base_way("one", ask_once), base_way("two", ask_once)))
    answered = {PROMPT: Answered({"one": given("yes", "yes"), "two": given("no", "yes")}, {})}
    assert set(read_likelihoods([Work(aim, asker, [PROMPT], answered)], place.base)) == {
        (PROMPT, "no"),
        (PROMPT, "yes"),
    }
    answered = {PROMPT: Answered({"one": given("yes", "yes"), "two": Given("no", False, 1, 1)}, {})}
    assert read_likelihoods([Work(aim, asker, [PROMPT], answered)], place.base) == {}
