"""What only the real engine can show of the log-probability tap: it says what a float32 forward pass does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from steer_server.catalogue.base_model import BaseModel
from steer_server.engine.log_prob_tap import reading_id
from steer_server.engine.reward_tap import answer_id, scoring_id
from tests.contract.test_log_probs import NEAR, NUM_SENTENCES, draft, prompt_ids, scores
from tests.support.servers import Running

pytestmark = [
    pytest.mark.engine,
    # PEFT's own imports warn.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def mean_log_prob(model: Any, prompt: list[int], whole: list[int]) -> float:
    with torch.inference_mode():
        logits = model(torch.tensor([whole])).logits[0].double()
    log_probs = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(whole[1:])[:, None])
    return float(log_probs[len(prompt) - 1 :].mean())


async def test_they_are_those_of_a_float32_forward_pass_under_either_plan(
    vllm_float32: Running, builtin: BaseModel, live_adapters: tuple[Path, list[str]]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    server, (folder, _) = vllm_float32, live_adapters
    text = draft(server, NUM_SENTENCES)
    # Once more, when all of it is in the cache.
    found = [await scores(server, text, culture=server.cultures.index("confucian")) for _ in range(2)]
    prompt, whole = [await prompt_ids(server, one) for one in ("", text)]
    model = AutoModelForCausalLM.from_pretrained(builtin.path, dtype=torch.float32)
    base = mean_log_prob(model, prompt, whole)
    steered = mean_log_prob(PeftModel.from_pretrained(model, str(folder / "confucian")), prompt, whole)
    assert abs(steered - base) > 10 * NEAR
    for one in found:
        assert one["tokens"] == len(whole) - len(prompt)
        assert one["log_likelihood"] == pytest.approx(base, abs=NEAR)
        assert one["log_ratio"] == pytest.approx(steered - base, abs=NEAR)


@pytest.mark.parametrize(
    "request_id",
    ["steer-read-x", reading_id(10_000), scoring_id(), f"0_{answer_id()}"],
    ids=["no number", "a text to read", "a text to score", "an answer to score"],
)
async def test_a_response_whose_client_gives_it_an_id_of_ours_is_answered_as_any(
    vllm_float32: Running, request_id: str
) -> None:
    """`/v1/responses` takes the id from its client, and what the taps do with theirs would end the engine."""
    server = vllm_float32
    body = {"model": server.model, "input": "Is bread cheap?", "max_output_tokens": 4, "temperature": 0}
    async with server.http() as http:
        plain, named = [
            (await http.post("/v1/responses", json={**body, **more})).raise_for_status().json()["output"]
            for more in ({}, {"request_id": request_id})
        ]
        assert named[0]["content"] == plain[0]["content"]
        assert (await http.get("/ready")).status_code == 200
