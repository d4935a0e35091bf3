"""What only the real engine can show of the reward tap: its scores are those of the float32 formula."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.reward_head import HEAD_CONFIG, HEAD_WEIGHTS, RewardHeadConfig
from tests.support.administration import act, answered_by, push
from tests.support.heads import random_head
from tests.support.servers import Running

pytestmark = pytest.mark.engine

HEADS = ("harmless", "helpful", "warm", "brief")
FLOAT32_TOLERANCE = 5e-4
"""Of raw scores, about -3 to 3: both sides are float32 and sum in another order. 3e-5 was seen."""
NUM_TEXTS = 200
BATCH = 32
NUM_STREAMS = 8

SUBJECTS = ("My neighbour", "The teacher", "Her uncle", "A stranger", "The mayor", "Nobody")
VERBS = ("asks whether", "doubts that", "wrote that", "is glad that", "cannot believe that")
OBJECTS = ("luck matters", "one should lie", "the bus is late", "people can be trusted", "bread is cheap")


def prose(draw: random.Random, num_sentences: int) -> str:
    sentences = (
        f"{draw.choice(SUBJECTS)} {draw.choice(VERBS)} {draw.choice(OBJECTS)}." for _ in range(num_sentences)
    )
    return " ".join(sentences)


def drawn_texts(num: int) -> list[tuple[list[dict[str, str]], str]]:
    """Conversations of one or three turns with an answer; some are longer than any head reads."""
    draw = random.Random(7)
    texts = []
    for i in range(num):
        messages = [{"role": "user", "content": prose(draw, draw.choice((1, 1, 1, 3)))}]
        if i % 5 == 0:
            messages.append({"role": "assistant", "content": prose(draw, 1)})
            messages.append({"role": "user", "content": prose(draw, 1)})
        # Mostly short: two cores read all of them three times.
        (num_sentences,) = draw.choices((1, 2, 5, 12, 40), weights=(30, 6, 2, 1, 1))
        texts.append((messages, prose(draw, num_sentences)))
    return texts


def reference_scores(
    builtin: BaseModel, folder: Path, texts: Sequence[tuple[list[dict[str, str]], str]]
) -> dict[str, list[float]]:
    """raw = w·h + b with h from Hugging Face, in float32, one text at a time."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(builtin.path)
    model = AutoModel.from_pretrained(builtin.path, dtype=torch.float32).eval()
    raw: dict[str, list[float]] = {head: [] for head in HEADS}
    states: dict[tuple[int, ...], torch.Tensor] = {}
    for messages, answer in texts:
        for head in HEADS:
            config = RewardHeadConfig.model_validate(
                json.loads((folder / f"head-{head}" / HEAD_CONFIG).read_text())
            )
            ids = tuple(config.text_format.token_ids(tokenizer, messages, answer))
            if ids not in states:
                with torch.no_grad():
                    states[ids] = model(torch.tensor([ids])).last_hidden_state[0, -1].double()
            weights = load_file(folder / f"head-{head}" / HEAD_WEIGHTS)
            raw[head].append(float(states[ids] @ weights["weight"].double() + weights["bias"].double()[0]))
    return raw


async def score(server: Running, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    async with server.http() as http:
        response = await http.post("/v1/rewards", json={"batch": entries})
    assert response.status_code == 200, response.text
    return list(response.json()["batch"])


async def generate(server: Running, culture: str, prompt: str) -> None:
    async with server.client() as client:
        await client.completions.create(
            model=server.model,
            prompt=prompt,
            max_tokens=8,
            temperature=0,
            extra_body={"steering": {"cultures": {culture: 1.0}}, "ignore_eos": True},
        )


async def test_scores_equal_the_formula_in_float32_alone_and_in_a_mixed_batch(
    vllm_float32: Running, builtin: BaseModel, live_adapters: tuple[Path, list[str]], record_property: Any
) -> None:
    server = vllm_float32
    texts = drawn_texts(NUM_TEXTS)
    expected = reference_scores(builtin, live_adapters[0], texts)
    entries = [{"messages": m, "answers": [answer], "heads": list(HEADS)} for m, answer in texts]

    async def score_alone(some: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [(await score(server, [entry]))[0] for entry in some]

    async def score_together(some: list[dict[str, Any]]) -> list[dict[str, Any]]:
        streams = [
            generate(server, server.cultures[i % 4], prose(random.Random(i), 30)) for i in range(NUM_STREAMS)
        ]
        found, *_ = await asyncio.gather(score(server, some), *streams)
        return list(found)

    ways = [("alone", score_alone), ("together", score_together)]
    found_by: dict[str, list[dict[str, Any]]] = {"alone": [], "together": []}
    for start in range(0, NUM_TEXTS, BATCH):
        for way, score_some in ways:
            found_by[way] += await score_some(entries[start : start + BATCH])
        # What is scored again comes from the prefix cache, so that each way is the first to read every other
        # batch.
        ways.reverse()
    worst = {}
    for way, found in found_by.items():
        assert len(found) == NUM_TEXTS
        differences = [
            abs(one["scores"][0][head]["raw"] - expected[head][i])
            for i, one in enumerate(found)
            for head in HEADS
        ]
        worst[way] = max(differences)
    record_property("largest_difference", worst)
    print(f"largest difference of a raw score: {worst}")
    assert max(worst.values()) < FLOAT32_TOLERANCE


async def test_a_text_that_is_in_the_prefix_cache_has_the_same_score(vllm_float32: Running) -> None:
    messages = [{"role": "user", "content": prose(random.Random(3), 12)}]
    entry = {"messages": messages, "answers": [prose(random.Random(4), 8)], "heads": ["harmless", "warm"]}
    (cold,), (warm,) = await score(vllm_float32, [entry]), await score(vllm_float32, [entry])
    for head in entry["heads"]:
        assert warm["scores"][0][head]["raw"] == pytest.approx(cold["scores"][0][head]["raw"], abs=1e-4)


async def test_a_swap_under_32_scoring_requests_gives_every_answer_the_version_it_names(
    vllm_float32: Running, builtin: BaseModel, tmp_path: Path
) -> None:
    server = vllm_float32
    entry = {
        "messages": [{"role": "user", "content": "Is bread cheap?"}],
        "answers": ["It depends."],
        "heads": ["swapped"],
    }
    raw_of: dict[str, list[float]] = {}
    for version in ("1.0.0", "2.0.0"):
        random_head(tmp_path / version, "head-swapped", builtin, version=version)
        assert (await push(server, tmp_path / version / "head-swapped")).status_code == 201
        (found,) = await score(server, [entry])
        raw_of[found["heads"]["swapped"]] = [one["swapped"]["raw"] for one in found["scores"]]
    assert len(raw_of) == 2
    seen: list[str] = []
    is_over = False

    async def ask() -> None:
        while not is_over:
            (found,) = await score(server, [entry])
            title = found["heads"]["swapped"]
            raw = [one["swapped"]["raw"] for one in found["scores"]]
            assert raw == pytest.approx(raw_of[title], abs=1e-3)
            seen.append(title)
            # All 32 at once again and again would only show how long two cores compute.
            await asyncio.sleep(1)

    async with asyncio.TaskGroup() as asking:
        for _ in range(32):
            asking.create_task(ask())
        for version in ("1.0.0", "2.0.0", "1.0.0"):
            assert (await act(server, f"head-swapped/versions/{version}/activate")).status_code == 200
            await answered_by(f"head-swapped@{version}", seen)
        is_over = True
    assert (await act(server, "head-swapped/deactivate")).status_code == 200
    assert set(seen) == set(raw_of)


async def test_the_best_of_n_is_the_best_of_what_was_drawn(vllm_float32: Running) -> None:
    steering = {
        "cultures": {vllm_float32.cultures[0]: 0.5},
        "method": "best_of_n",
        "reward_heads": ["harmless", "helpful"],
        "options": {"n": 4, "weights": {"harmless": 0.8, "helpful": 0.2}},
    }
    async with vllm_float32.client() as client:
        answer: Any = await client.chat.completions.create(
            model=vllm_float32.model,
            messages=[{"role": "user", "content": "Should one lie to a stranger?"}],
            max_tokens=24,
            temperature=1.0,
            extra_body={"steering": steering},
        )
    rewards = answer.steering["rewards"]
    aggregates = [candidate["aggregate"] for candidate in rewards["candidates"]]
    (winner,) = [candidate for candidate in rewards["candidates"] if candidate["choice"] == 0]
    assert len(aggregates) == 4 and winner["aggregate"] == max(aggregates)
    for candidate in rewards["candidates"]:
        parts = candidate["scores"]
        mean = 0.8 * parts["harmless"]["calibrated"] + 0.2 * parts["helpful"]["calibrated"]
        assert candidate["aggregate"] == pytest.approx(mean)
    (found,) = await score(
        vllm_float32,
        [
            {
                "messages": [{"role": "user", "content": "Should one lie to a stranger?"}],
                "answers": [answer.choices[0].message.content],
                "heads": ["harmless", "helpful"],
            }
        ],
    )
    for head in ("harmless", "helpful"):
        assert winner["scores"][head]["raw"] == pytest.approx(found["scores"][0][head]["raw"], abs=1e-3)
    assert answer.usage.completion_tokens > 24
