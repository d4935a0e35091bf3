"""What only the real engine can show: numbers, caches, concurrency, vLLM's own features under steering."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from steer_server.catalogue.base_model import BaseModel
from tests.support.servers import Running

pytestmark = pytest.mark.engine

PROMPTS = [
    "How important is religion in your life?",
    "Should children learn obedience at home?",
    "Would you say that most people can be trusted?",
    "Is hard work more important than luck?",
]
FLOAT32_TOLERANCE = 2e-3
"""Nats. float32 on both sides; the sums are taken in another order over 30 layers."""
BFLOAT16_TOLERANCE = 0.35
"""Nats, for the most likely tokens. bf16 keeps 8 bits and the rounding of 30 layers adds up; the unsteered
model's own difference from float32 is bounded by the same number in the same test."""


def long_prompt(topic: str) -> str:
    """More than two cache blocks of 128 tokens."""
    return "Here is what the village elders told us. " * 35 + f"So what is {topic}?"


async def complete(server: Running, prompt: str, steering: Any = None, **options: Any) -> Any:
    extra = {} if steering is None else {"steering": steering}
    async with server.client() as client:
        return await client.completions.create(
            model=server.model,
            prompt=prompt,
            extra_body={**extra, **options.pop("extra", {})},
            **{"max_tokens": 8, "temperature": 0, **options},
        )


async def chat(server: Running, prompt: str, steering: Any = None, **options: Any) -> Any:
    extra = {} if steering is None else {"steering": steering}
    async with server.client() as client:
        return await client.chat.completions.create(
            model=server.model,
            messages=[{"role": "user", "content": prompt}],
            extra_body=extra,
            **{"max_tokens": 24, "temperature": 0, **options},
        )


def reference_logprobs(
    builtin: BaseModel, adapters: Path, blend: dict[str, float], prompt: str
) -> dict[str, float]:
    """float32 log-probabilities of the next token by a Hugging Face model with weights W + Σ w·scale·B·A.

    PEFT's own forward pass is compared with the same sum in `test_peft.py`.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(builtin.path, dtype=torch.float32)
    modules = dict(model.named_modules())
    with torch.no_grad():
        for name, weight in blend.items():
            config = json.loads((adapters / name / "adapter_config.json").read_text())
            scale = config["lora_alpha"] / config["r"]
            tensors = load_file(adapters / name / "adapter_model.safetensors")
            for key in tensors:
                if key.endswith(".lora_A.weight"):
                    module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                    a, b = tensors[key].float(), tensors[key.replace("lora_A", "lora_B")].float()
                    modules[module].weight += weight * scale * (b @ a)
        tokenizer = AutoTokenizer.from_pretrained(builtin.path)
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        logprobs = model(ids).logits[0, -1].log_softmax(-1)
        top = logprobs.topk(20)
        return {
            tokenizer.decode([token]): float(value)
            for value, token in zip(top.values, top.indices, strict=True)
        }


async def largest_error(
    server: Running, builtin: BaseModel, adapters: Path, blend: dict[str, float], prompt: str
) -> float:
    expected = reference_logprobs(builtin, adapters, blend, prompt)
    steering = {"cultures": blend} if blend else {"method": "none"}
    answer = await complete(server, prompt, steering, max_tokens=1, logprobs=5)
    found = answer.choices[0].logprobs.top_logprobs[0]
    assert len(found) >= 5
    return max(abs(expected[token] - value) for token, value in found.items() if token in expected)


BLENDS: list[dict[str, float]] = [
    {},
    {"confucian": 1.0},
    {"confucian": 0.5, "african": 0.5},
    {"confucian": 0.2, "african": 0.3, "amber": 0.7},
]


@pytest.mark.parametrize("blend", BLENDS, ids=str)
async def test_a_blend_equals_the_sum_of_its_weight_updates_in_float32(
    vllm_float32: Running, builtin: BaseModel, live_adapters: tuple[Path, list[str]], blend: dict[str, float]
) -> None:
    for prompt in PROMPTS[:2]:
        assert await largest_error(vllm_float32, builtin, live_adapters[0], blend, prompt) < FLOAT32_TOLERANCE


@pytest.mark.parametrize("blend", BLENDS, ids=str)
async def test_a_blend_equals_the_sum_of_its_weight_updates_in_bfloat16(
    vllm: Running, builtin: BaseModel, live_adapters: tuple[Path, list[str]], blend: dict[str, float]
) -> None:
    for prompt in PROMPTS[:2]:
        assert await largest_error(vllm, builtin, live_adapters[0], blend, prompt) < BFLOAT16_TOLERANCE


async def test_weight_zero_equals_the_base_bit_for_bit(vllm: Running) -> None:
    """Log-probabilities, not only text; also inside a batch that is steered."""
    prompt = PROMPTS[0]
    zero = {"cultures": {"confucian": 1.0}, "strength": 0}

    async def logprobs(steering: Any) -> list[float]:
        answer = await complete(vllm, prompt, steering, logprobs=1, extra={"cache_salt": str(steering)})
        return list(answer.choices[0].logprobs.token_logprobs)

    assert await logprobs(None) == await logprobs(zero) == await logprobs({"method": "none"})


def blends_of_three(server: Running, count: int) -> list[dict[str, Any]]:
    triples = list(itertools.combinations(server.cultures[:5], 3))
    specs = []
    for i in range(count):
        share = round(0.1 + 0.8 * i / count, 3)
        a, b, c = triples[i % len(triples)]
        specs.append({"cultures": {a: share, b: round(1 - share, 3), c: 0.25}})
    return specs


async def streamed(server: Running, prompt: str, steering: Any) -> str:
    async with server.client() as client:
        events = await client.chat.completions.create(
            model=server.model,
            messages=[{"role": "user", "content": prompt}],
            stream=True,
            max_tokens=24,
            temperature=0,
            extra_body={"steering": steering} if steering else None,
        )
        return "".join([c.choices[0].delta.content or "" async for c in events if c.choices])


async def test_32_concurrent_streams_with_32_blends_equal_what_each_gives_alone(
    vllm_float32: Running,
) -> None:
    specs = blends_of_three(vllm_float32, 32)
    work = [(PROMPTS[i % len(PROMPTS)], spec) for i, spec in enumerate(specs)]
    together = await asyncio.gather(*(streamed(vllm_float32, *item) for item in work))
    alone = [await streamed(vllm_float32, *item) for item in work]
    assert together == alone
    assert len(set(together)) > len(PROMPTS)


async def test_in_bfloat16_a_batch_changes_steered_texts_no_more_than_unsteered_ones(
    vllm: Running, record_property: Any
) -> None:
    """bf16 sums depend on the batch's shape, with and without steering: near-ties may fall the other way."""
    specs = blends_of_three(vllm, 32)
    prompts = [f"{PROMPTS[i % len(PROMPTS)]} Answer as person {i}." for i in range(32)]
    changed = {}
    for kind, steerings in (("steered", specs), ("unsteered", [None] * 32)):
        work = list(zip(prompts, steerings, strict=True))
        together = await asyncio.gather(*(streamed(vllm, *item) for item in work))
        alone = [await streamed(vllm, *item) for item in work]
        changed[kind] = sum(a != b for a, b in zip(together, alone, strict=True))
    record_property("changed_of_32", changed)
    print(f"texts changed by batching, of 32: {changed}")
    assert changed["steered"] <= changed["unsteered"] + 6


async def test_a_cold_and_a_warm_prefix_cache_give_the_same_text(vllm: Running) -> None:
    for i, steering in enumerate(({"cultures": {"confucian": 0.8}}, {"cultures": {"african": 0.4}})):
        prompt = long_prompt(f"the cold and the warm {i}")
        cold = await complete(vllm, prompt, steering)
        warm = await complete(vllm, prompt, steering)
        assert cold.usage.prompt_tokens_details.cached_tokens in (0, None)
        assert warm.usage.prompt_tokens_details.cached_tokens >= 256
        assert warm.choices[0].text == cold.choices[0].text


async def test_two_plans_on_one_prompt_never_share_cache_blocks(vllm: Running) -> None:
    prompt = long_prompt("shared")
    steerings = [
        None,
        {"cultures": {"confucian": 0.5}},
        {"cultures": {"confucian": 0.501}},
        {"cultures": {"confucian": 0.5, "african": 0.001}},
        {"values": {"helpful": 0.6, "harmless": 0.4}},
        {"values": {"helpful": 0.5, "harmless": 0.5}},
    ]
    for steering in steerings:
        answer = await complete(vllm, prompt, steering)
        assert answer.usage.prompt_tokens_details.cached_tokens in (0, None), steering
    for steering in steerings:
        answer = await complete(vllm, prompt, steering)
        assert answer.usage.prompt_tokens_details.cached_tokens >= 256, steering


async def test_a_plan_gives_the_same_text_after_its_adapters_left_and_came_back(vllm: Running) -> None:
    """The bank has fewer slots than there are adapters, so these move; caches and gates must not notice."""
    steering = {"cultures": {"confucian": 0.9}}
    before = await chat(vllm, PROMPTS[0], steering)
    for culture in vllm.cultures[::-1]:
        await chat(vllm, PROMPTS[1], {"cultures": {culture: 1.0}}, max_tokens=4)
    after = await chat(vllm, PROMPTS[0], steering)
    assert before.choices[0].message.content == after.choices[0].message.content
    assert before.steering["plan"] == after.steering["plan"]


STEERED = {"cultures": {"confucian": 0.6, "african": 0.4}}


async def test_a_tool_call_works_under_steering(vllm: Running) -> None:
    tool: dict[str, Any] = {
        "type": "function",
        "function": {
            "name": "vote",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"answer": {"type": "string", "enum": ["yes", "no"]}},
                "required": ["answer"],
            },
        },
    }
    for choice in ("required", {"type": "function", "function": {"name": "vote"}}):
        answer = await chat(
            vllm, "Should we trust strangers?", STEERED, tools=[tool], tool_choice=choice, max_tokens=64
        )
        (call,) = answer.choices[0].message.tool_calls
        assert call.function.name == "vote" and json.loads(call.function.arguments)["answer"] in ("yes", "no")
        assert answer.steering["applied"]


async def test_a_json_schema_works_under_steering(vllm: Running) -> None:
    schema = {
        "type": "object",
        "properties": {"important": {"type": "boolean"}},
        "required": ["important"],
        "additionalProperties": False,
    }
    format_ = {"type": "json_schema", "json_schema": {"name": "view", "schema": schema}}
    answer = await chat(vllm, PROMPTS[0], STEERED, response_format=format_)
    assert isinstance(json.loads(answer.choices[0].message.content)["important"], bool)


async def test_logprobs_work_under_steering_and_differ_from_the_bases(vllm: Running) -> None:
    steered = await chat(vllm, PROMPTS[0], STEERED, logprobs=True, top_logprobs=3, max_tokens=3)
    plain = await chat(vllm, PROMPTS[0], None, logprobs=True, top_logprobs=3, max_tokens=3)
    first = steered.choices[0].logprobs.content[0]
    assert len(first.top_logprobs) == 3
    assert first.top_logprobs[0].logprob != plain.choices[0].logprobs.content[0].top_logprobs[0].logprob


async def test_n_seed_and_stop_work_under_steering(vllm: Running) -> None:
    options: dict[str, Any] = {"n": 3, "temperature": 1.0, "seed": 7}
    first = await chat(vllm, PROMPTS[0], STEERED, **options)
    again = await chat(vllm, PROMPTS[0], STEERED, **options)
    texts = [choice.message.content for choice in first.choices]
    assert len(texts) == 3 and texts == [choice.message.content for choice in again.choices]
    stopped = await chat(vllm, PROMPTS[0], STEERED, stop=["e"])
    assert stopped.choices[0].finish_reason == "stop" and "e" not in stopped.choices[0].message.content


async def test_seeded_prompts_that_are_read_in_parts_draw_as_ones_that_are_read_at_once(
    vllm_float32: Running,
) -> None:
    """Together they are more than one step reads; afterwards the prefix cache leaves one part of each."""

    async def text(number: int) -> str:
        prompt = f"{number} " + "one two three " * 400
        steering = {"cultures": {vllm_float32.cultures[0]: 1}}
        answer = await complete(vllm_float32, prompt, steering, temperature=1.0, seed=7)
        return str(answer.choices[0].text)

    in_parts = await asyncio.gather(*(text(number) for number in range(6)))
    at_once = [await text(number) for number in range(6)]
    assert in_parts == at_once


async def test_beam_search_is_steered(vllm: Running) -> None:
    """Its beams are started by vLLM itself, later than the request."""
    extra = {"use_beam_search": True, "n": 2, "ignore_eos": True}
    plain = await complete(vllm, PROMPTS[0], None, extra=extra)
    steered = await complete(vllm, PROMPTS[0], STEERED, extra=extra)
    assert plain.choices[0].text != steered.choices[0].text and steered.steering["applied"]


async def test_several_prompts_in_one_completion_are_all_steered(vllm: Running) -> None:
    async with vllm.client() as client:
        batch = await client.completions.create(
            model=vllm.model,
            prompt=PROMPTS[:2],
            max_tokens=8,
            temperature=0,
            extra_body={"steering": STEERED},
        )
    plain = [(await complete(vllm, prompt, None)).choices[0].text for prompt in PROMPTS[:2]]
    assert len(batch.choices) == 2
    assert all(c.text != p for c, p in zip(batch.choices, plain, strict=True))


async def test_responses_and_messages_still_work_unsteered(vllm: Running) -> None:
    async with vllm.client() as client:
        response = await client.responses.create(model=vllm.model, input="Say hello.", max_output_tokens=8)
    assert response.output_text
    async with vllm.http() as http:
        message = await http.post(
            "/v1/messages",
            json={"model": vllm.model, "max_tokens": 8, "messages": [{"role": "user", "content": "Hello"}]},
        )
    assert message.status_code == 200 and message.json()["content"]


async def test_a_steered_model_name_on_an_unsteered_route_is_refused(vllm: Running) -> None:
    async with vllm.http() as http:
        body = {"model": f"{vllm.model}@confucian", "input": "hello"}
        assert (await http.post("/v1/responses", json=body)).status_code == 404


async def test_the_model_runs_compiled_and_the_bank_is_as_large_as_its_formula_says(
    vllm: Running, builtin: BaseModel
) -> None:
    async with vllm.http() as http:
        bank = (await http.get("/ready")).json()["bank"]
    per_rank = sum(outs + ins for outs, ins in builtin.linear_shapes.values())
    assert bank["bytes"] == 2 * bank["copies"] * bank["slots"] * bank["rank"] * per_rank
    # CompilationMode.DYNAMO_TRACE_ONCE; 0 would be no compilation.
    assert bank["compilation_mode"] == "2"


async def test_metrics_count_what_happened(vllm: Running) -> None:
    async with vllm.http() as http:
        page = (await http.get("/metrics")).text
    assert 'steer_requests_total{method="adapters",route="chat",status="200"}' in page
    assert 'steer_requests_running{method="adapters"} 0.0' in page
    assert "vllm:num_requests_running" in page


async def test_a_live_server_passes_its_own_check(vllm: Running) -> None:
    from steer_server.check import Checker

    async def check() -> None:
        import httpx

        with httpx.Client(base_url=vllm.url, timeout=300) as client:
            checker = Checker(client, vllm.model, [c for c in vllm.cultures if c not in ("amber", "blue")])
            checker.base_is_unchanged()
            checker.steered_differs()
            checker.blends_add_up()
            checker.answers_say_what_was_applied()
            checker.streams_equal_answers()
            checker.bad_input_is_refused()

    await check()
