"""align_pro on the real engine with a prompter of random weights: whatever it writes, what is said is so."""

from __future__ import annotations

from typing import Any

import pytest

from steer_server.frozen.rewrite_checks import Reason, check_rewrite
from tests.support.servers import Running

pytestmark = pytest.mark.engine

QUESTIONS = ("How important is religion in your life?", "Name 3 rivers, but not the Nile.")


async def chat(server: Running, content: str, steering: Any = None, **options: Any) -> dict[str, Any]:
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 12,
        "temperature": 0,
        **options,
    }
    if steering is not None:
        body["steering"] = steering
    async with server.http() as http:
        answer = await http.post("/v1/chat/completions", json=body)
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def text(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("strength", [1.0, 0.1, 0])
async def test_what_is_said_to_be_sent_was_sent_and_may_be(
    vllm_float32: Running, question: str, strength: float
) -> None:
    steering = {"method": "align_pro", "strength": strength}
    first = await chat(vllm_float32, question, steering)
    rewrite, prompt = first["steering"]["rewrite"], first["steering"]["prompt"]
    assert text(first) == text(await chat(vllm_float32, prompt))
    if rewrite["status"] == "original":
        assert prompt == question and rewrite["reason"] in set(Reason) and rewrite["detail"]
        assert (rewrite["reason"] == Reason.STRENGTH_0) == (strength == 0)
    else:
        assert rewrite["status"] == "rewritten" and rewrite["reason"] is None
        assert check_rewrite(question, prompt) is None
    again = await chat(vllm_float32, question, steering)
    expected = "original" if rewrite["status"] == "original" else "cached"
    assert again["steering"]["rewrite"] == {**rewrite, "status": expected}
    assert (again["steering"]["prompt"], text(again)) == (prompt, text(first))
