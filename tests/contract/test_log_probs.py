"""Log-probabilities of given texts, on FakeEngine and on vLLM: the same whatever is cached, or else runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.servers import Running

PROMPT: Any = [{"role": "user", "content": "How important is religion in your life?"}]
NUM_SENTENCES = 40
"""So many that the prefix cache has blocks of the answer, wherever they end."""
NEAR = 2e-4
"""Of means in nats, which are given with four decimals."""


def draft(server: Running, num_sentences: int) -> str:
    if server.fake is not None:
        return " ".join(f"w{i:02d} w{i + 1:02d} w{56 + i % 8}." for i in range(num_sentences))
    return " ".join(f"On day {i} we went to the temple and talked." for i in range(num_sentences))


async def scores(server: Running, text: str, *, culture: int = 0, **more: Any) -> dict[str, float]:
    """Of a text as a draft, whose log-probabilities diffpo says in the mean."""
    options = {"draft": text, "loops": 1, "candidates": 1, "variant": "conflicts"}
    steering = {"method": "diffpo", "cultures": {server.cultures[culture]: 1.0}, "options": options}
    async with server.client() as client:
        answer: Any = await client.chat.completions.create(
            model=server.model,
            messages=PROMPT,
            max_tokens=1,
            temperature=0,
            extra_body={"steering": steering, **more},
        )
    return dict(answer.steering["denoising"]["draft_scores"])


def near(found: dict[str, float]) -> Any:
    return pytest.approx(found, abs=NEAR)


async def test_a_cold_cache_and_a_warm_one_give_the_same(exact_server: Running) -> None:
    whole, half = (draft(exact_server, num) for num in (NUM_SENTENCES, NUM_SENTENCES // 2))
    cold = [await scores(exact_server, text, cache_salt="cold") for text in (whole, half)]
    assert cold[0]["tokens"] > cold[1]["tokens"] > NUM_SENTENCES
    # The second time of each, and the half as the other's beginning, in either order.
    for salt in ("cold", "other"):
        for text, expected in ((half, cold[1]), (whole, cold[0]), (half, cold[1])):
            assert await scores(exact_server, text, cache_salt=salt) == near(expected)


async def test_texts_read_at_once_and_amid_answers_give_the_same(exact_server: Running) -> None:
    texts = [draft(exact_server, num) for num in (3, NUM_SENTENCES, 7, NUM_SENTENCES, 21)]
    cultures = [0, 1, 0, 0, 1]
    pairs = list(zip(texts, cultures, strict=True))
    alone = [await scores(exact_server, text, culture=culture, cache_salt="alone") for text, culture in pairs]

    async def answer(seed: int) -> None:
        async with exact_server.client() as client:
            await client.chat.completions.create(
                model=exact_server.model, messages=PROMPT, max_tokens=24, seed=seed
            )

    reading = [scores(exact_server, text, culture=culture, cache_salt="at once") for text, culture in pairs]
    found = await asyncio.gather(*map(answer, range(3)), *reading)
    assert found[3:] == [near(expected) for expected in alone]


async def test_two_plans_share_nothing(exact_server: Running) -> None:
    text = draft(exact_server, NUM_SENTENCES)
    first, second = [await scores(exact_server, text, culture=culture) for culture in (0, 1)]
    assert first["log_likelihood"] == pytest.approx(second["log_likelihood"], abs=NEAR)
    assert first["log_ratio"] != pytest.approx(second["log_ratio"], abs=NEAR)


async def test_log_probs_are_those_that_prompt_logprobs_say(exact_server: Running) -> None:
    """As vLLM computes them, without the cache and for all of the prompt."""
    text = draft(exact_server, NUM_SENTENCES)
    found = await scores(exact_server, text)
    prompt, whole = [await prompt_ids(exact_server, one) for one in ("", text)]
    async with exact_server.client() as client:
        read: Any = await client.completions.create(
            model=exact_server.model,
            prompt=whole,
            max_tokens=1,
            extra_body={"prompt_logprobs": 0},
        )
    said = read.choices[0].prompt_logprobs[len(prompt) :]
    log_probs = [one[str(token)]["logprob"] for token, one in zip(whole[len(prompt) :], said, strict=True)]
    assert len(log_probs) == found["tokens"]
    assert found["log_likelihood"] == pytest.approx(sum(log_probs) / len(log_probs), abs=NEAR)


async def prompt_ids(server: Running, answer: str) -> list[int]:
    """The chat's prompt, with the answer behind it."""
    if server.fake is not None:
        chat = await server.fake.tokenise_chat({"messages": PROMPT}, None)  # type: ignore[arg-type]
        (text,) = await server.fake.tokenise([answer])
        return [*chat, *text.token_ids]
    async with server.http() as http:

        async def tokens(body: dict[str, Any]) -> list[int]:
            return list((await http.post("/tokenize", json=body)).raise_for_status().json()["tokens"])

        chat = await tokens({"model": server.model, "messages": PROMPT, "add_generation_prompt": True})
        if not answer:
            return chat
        return chat + await tokens({"model": server.model, "prompt": answer, "add_special_tokens": False})
