"""What diffpo promises, on FakeEngine and on vLLM."""

from __future__ import annotations

from typing import Any

import pytest

from steer_server.frozen.guard import MAX_LOSS
from tests.support.servers import Running

PROMPT = [{"role": "user", "content": "How important is religion in your life?"}]
DRAFTS = {
    "fake": "w01 w02 w03 w57. w04 w05 w06 w58. w07 w08 w09 w60.",
    "smollm2": "Religion is a waste of time. I never think of it. My parents did, and look at them now!",
}


async def ask(server: Running, options: dict[str, Any], **more: Any) -> Any:
    spec: dict[str, Any] = {"method": "diffpo", "options": options}
    if "statement" not in options:
        spec["cultures"] = {server.cultures[0]: 1.0}
    async with server.client() as client:
        return await client.chat.completions.create(
            **{"model": server.model, "messages": PROMPT, "max_tokens": 48, "seed": 1, **more},
            extra_body={"steering": spec},
        )


@pytest.mark.parametrize("variant", ["spans", "conflicts"])
@pytest.mark.parametrize("statement", [None, "Faith is what matters most."])
@pytest.mark.parametrize("by", ["client", "local"])
async def test_an_answer_is_better_than_its_draft_or_is_the_draft(
    exact_server: Running, variant: str, statement: str | None, by: str
) -> None:
    options: dict[str, Any] = {"variant": variant, "loops": 2}
    options |= {} if statement is None else {"statement": statement}
    options |= {"draft": DRAFTS[exact_server.model]} if by == "client" else {}
    answer = await ask(exact_server, options)
    found, text = answer.steering["denoising"], answer.choices[0].message.content
    before, after = found["draft_scores"], found["answer_scores"]
    if found["outcome"] == "draft":
        assert text == found["draft"] and before == after and found["reason"]
    else:
        assert text != found["draft"] and found["changed_share"] > 0
        assert after["log_ratio"] > before["log_ratio"]
        assert after["log_likelihood"] >= (1 + MAX_LOSS) * before["log_likelihood"] - 1e-3
    assert 0 <= found["loops"] <= 2


async def test_what_is_said_of_an_answer_is_said_of_it_as_a_draft(exact_server: Running) -> None:
    first = await ask(exact_server, {"draft": DRAFTS[exact_server.model], "candidates": 8})
    text = first.choices[0].message.content
    second = await ask(exact_server, {"draft": text, "loops": 1})
    said, again = first.steering["denoising"]["answer_scores"], second.steering["denoising"]["draft_scores"]
    assert again["tokens"] == said["tokens"]
    assert again["log_likelihood"] == pytest.approx(said["log_likelihood"], abs=1e-3)
    assert again["log_ratio"] == pytest.approx(said["log_ratio"], abs=1e-3)


async def test_an_answer_in_another_script_keeps_its_characters(exact_server: Running) -> None:
    draft = "今日は、世界。🙂 Grüße!"
    found = (await ask(exact_server, {"draft": draft, "loops": 1})).steering["denoising"]
    assert found["draft"] == draft


async def test_the_engines_refusal_of_a_body_is_passed_on(exact_server: Running) -> None:
    body = {"model": exact_server.model, "messages": [], "steering": {"method": "diffpo"}}
    body["steering"] = {"method": "diffpo", "options": {"statement": "Be kind.", "draft": "So."}}
    async with exact_server.http() as http:
        response = await http.post("/v1/chat/completions", json=body)
    assert response.status_code in (400, 422)
