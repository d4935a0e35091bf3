"""What only the real engine can show of the reward tap: its scores are those of the float32 formula."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.reward_head import HEAD_CONFIG, HEAD_WEIGHTS, RewardHeadConfig
from steer_server.settings import Settings
from tests.support.adapters import TINY, random_adapter
from tests.support.administration import act, answered_by, push
from tests.support.heads import random_head
from tests.support.servers import LEAST_OPTIONS, Running, supervised_server
from tests.support.tiny_model import FOR_VLLM, tiny_model_with_weights

pytestmark = pytest.mark.engine

HEADS = ("harmless", "helpful", "warm", "brief")
FLOAT32_TOLERANCE = 5e-4
"""Of raw scores, about -3 to 3: both sides are float32 and sum in another order. 3e-5 was seen."""
NUM_TEXTS = 200
BATCH = 32
NUM_STREAMS = 8
STEP_TOKENS = 64
"""That the engine reads in one step, where texts are to be read in parts."""
SCARCE_CACHE = ("--kv-cache-memory-bytes=512K", "--block-size=32")
"""512 tokens of the tiny model, too few for eight answers at once: some are preempted."""

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
    base: BaseModel,
    folder: Path,
    texts: Sequence[tuple[list[dict[str, str]], str]],
    heads: Sequence[str] = HEADS,
) -> dict[str, list[float]]:
    """raw = w·h + b with h from Hugging Face, in float32, one text at a time."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.path)
    model = AutoModel.from_pretrained(base.path, dtype=torch.float32).eval()
    raw: dict[str, list[float]] = {head: [] for head in heads}
    states: dict[tuple[int, ...], torch.Tensor] = {}
    for messages, answer in texts:
        for head in heads:
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


async def test_texts_that_are_read_in_parts_amid_answers_have_the_scores_of_the_formula(
    tmp_path: Path,
) -> None:
    torch.manual_seed(1)
    model = tiny_model_with_weights(tmp_path / TINY, **FOR_VLLM)
    base = BaseModel.of(Settings(model=str(model)))
    random_head(tmp_path / "heads", "head-kind", base)
    draw = random.Random(5)
    # A character is a token here: up to 223, which take several steps.
    texts = [([{"role": "user", "content": prose(draw, 1)}], prose(draw, 3)) for _ in range(12)]
    entries = [{"messages": m, "answers": [answer], "heads": ["kind"]} for m, answer in texts]
    expected = reference_scores(base, tmp_path / "heads", texts, ["kind"])["kind"]
    asked = {"messages": texts[0][0], "max_tokens": 60, "ignore_eos": True}
    options = [f"--adapters={tmp_path / 'heads'}", f"--max-num-batched-tokens={STEP_TOKENS}", *LEAST_OPTIONS]
    with supervised_server(tmp_path, f"--model={model}", *options) as (server, _):
        async with server.http() as http:
            answers = [asyncio.create_task(http.post("/v1/chat/completions", json=asked)) for _ in range(4)]
            # The second time from the prefix cache, as far as that goes.
            found = [await score(server, entries) for _ in range(2)]
            assert all(answer.status_code == 200 for answer in await asyncio.gather(*answers))
    for scores in found:
        raw = [one["scores"][0]["kind"]["raw"] for one in scores]
        assert raw == pytest.approx(expected, abs=FLOAT32_TOLERANCE)


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


READ_ANSWERS: tuple[tuple[Any, dict[str, Any]], ...] = (
    ({"cultures": {"amber": 1.0}}, {"n": 3, "max_tokens": 60, "seed": 1}),
    (
        {"cultures": {"amber": 1.0}},
        {"stop": ["e", "x", "3", "\n"], "min_tokens": 9, "max_tokens": 80, "seed": 2},
    ),
    ({"cultures": {"amber": 1.0}}, {"stream": True, "n": 2, "max_tokens": 50, "temperature": 0.5}),
    ({"method": "none"}, {"max_tokens": 70, "ignore_eos": True, "temperature": 0}),
    ({"method": "none"}, {"max_tokens": 1}),
    ({"method": "best_of_n", "cultures": {"amber": 1.0}}, {"n": 2, "max_tokens": 40}),
)


async def read_choices(server: Running, steering: Any, **options: Any) -> tuple[list[list[int]], Any]:
    """The tokens before the one that was sampled last, of each choice with its prompt; and the rewards."""
    asked = {**steering, "reward_heads": ["kind"], "options": {"read": "generation"}}
    body = {"messages": [{"role": "user", "content": prose(random.Random(11), 3)}], "steering": asked}
    async with server.http() as http:
        response = await http.post("/v1/chat/completions", json={**body, "return_token_ids": True, **options})
    assert response.status_code == 200, response.text
    if not options.get("stream"):
        answer = response.json()
        assert "stop" not in options or answer["choices"][0]["finish_reason"] == "stop"
        ids = [answer["prompt_token_ids"] + choice["token_ids"][:-1] for choice in answer["choices"]]
        return ids, answer["steering"]["rewards"]
    chunks = [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n")[:-2]]
    prompt = next(chunk["prompt_token_ids"] for chunk in chunks if chunk.get("prompt_token_ids"))
    sampled: dict[int, list[int]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            sampled.setdefault(choice["index"], []).extend(choice.get("token_ids") or [])
    return [prompt + ids[:-1] for _, ids in sorted(sampled.items())], chunks[-1]["steering"]["rewards"]


# PEFT's own imports warn.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
async def test_answers_that_are_read_as_they_are_generated_have_the_scores_of_their_last_rows(
    tmp_path: Path,
) -> None:
    """In a mixed batch: prompts in parts, preempted answers, streams, several choices, texts to score."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    tiny = tiny_model_with_weights(tmp_path / TINY, **FOR_VLLM)
    base = BaseModel.of(Settings(model=str(tiny)))
    folder = tmp_path / "adapters"
    random_head(folder, "head-kind", base)
    random_adapter(folder, "amber", base, size=0.3)
    entry = {
        "messages": [{"role": "user", "content": "Is bread cheap?"}],
        "answers": ["No."],
        "heads": ["kind"],
    }
    options = [
        f"--adapters={folder}",
        f"--max-num-batched-tokens={STEP_TOKENS}",
        *LEAST_OPTIONS,
        *SCARCE_CACHE,
    ]
    with supervised_server(tmp_path, f"--model={tiny}", *options) as (server, _):
        found, *_ = await asyncio.gather(
            asyncio.gather(*(read_choices(server, one, **more) for one, more in READ_ANSWERS)),
            *(score(server, [entry]) for _ in range(3)),
        )
        async with server.http() as http:
            metrics = (await http.get("/metrics")).text
    plain = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    weights = load_file(folder / "head-kind" / HEAD_WEIGHTS)
    states: dict[bool, list[torch.Tensor]] = {}
    for is_steered in (False, True):
        model = PeftModel.from_pretrained(plain, str(folder / "amber")) if is_steered else plain
        with torch.inference_mode():
            states[is_steered] = [
                model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0, -1].double()
                for choices, _ in found
                for ids in choices
            ]
    places = iter(range(len(states[True])))
    worst = 0.0
    for (choices, rewards), (steering, _) in zip(found, READ_ANSWERS, strict=True):
        assert rewards["read"] == "generation" and len(rewards["scores"]) == len(choices)
        for scored, place in zip(rewards["scores"], places, strict=False):
            by_plan = [
                float(states[is_steered][place] @ weights["weight"].double() + weights["bias"].double()[0])
                for is_steered in (False, True)
            ]
            assert abs(by_plan[0] - by_plan[1]) > 100 * FLOAT32_TOLERANCE
            worst = max(worst, abs(scored["kind"]["raw"] - by_plan["cultures" in steering]))
    print(f"largest difference of a raw score: {worst}")
    assert worst < FLOAT32_TOLERANCE
    preempted = re.search(r"^vllm:num_preemptions_total\{.*\} (\S+)$", metrics, re.MULTILINE)
    assert preempted and float(preempted[1]) > 0
