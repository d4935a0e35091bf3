"""The spans of each method, on the real app through the OpenAI client."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from opentelemetry.trace import SpanKind, StatusCode

import steer_server.observing as described
from steer_server.errors import AbortedError
from tests.observing.conftest import World
from tests.support.prompters import QUESTION, REWRITE
from tests.support.upstream import Exchange

CULTURES = {"cultures": {"amber": 0.6, "blue": 0.4}}
REQUEST = "POST /v1/chat/completions"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def attributes(span: Any) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_a_steered_answer_is_planned_waits_for_slots_and_runs_in_the_engine(world: World) -> None:
    answer = await world.prompted.chat(CULTURES, temperature=0.5)
    assert await world.tree() == [REQUEST, "  plan", "  queue", "  chat fake"]
    root, call = await world.span(REQUEST), await world.span("chat fake")
    assert root.kind is SpanKind.SERVER and call.kind is SpanKind.INTERNAL
    steered = {
        "steer.plan": answer.steering["plan"],
        "steer.method": "adapters",
        "steer.adapters": ("amber@1.0.0", "blue@1.0.0"),
    }
    assert steered.items() <= attributes(root).items() and steered.items() <= attributes(call).items()
    assert {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "steer.outcome": "answered",
    }.items() <= attributes(root).items()
    assert {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "fake",
        "gen_ai.request.model": "fake",
        "gen_ai.request.max_tokens": 6,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.usage.input_tokens": 1,
        "gen_ai.usage.output_tokens": 6,
    }.items() <= attributes(call).items()


async def test_the_base_model_needs_no_slots(world: World) -> None:
    await world.prompted.chat(None)
    assert await world.tree() == [REQUEST, "  plan", "  chat fake"]


async def test_a_stream_is_in_the_engine_to_its_last_token(world: World) -> None:
    world.prompted.engine.token_seconds = 0.02
    await world.prompted.chat(CULTURES, stream=True)
    assert await world.tree() == [REQUEST, "  plan", "  queue", "  chat fake"]
    root, call = await world.span(REQUEST), await world.span("chat fake")
    assert attributes(call)["gen_ai.request.stream"] is True
    first_seconds = attributes(root)["gen_ai.response.time_to_first_chunk"]
    assert root.start_time and call.end_time and first_seconds > 0.02
    # Five more tokens come after the first.
    assert (call.end_time - root.start_time) / 1e9 > first_seconds + 4 * 0.02


async def test_best_of_n_is_one_request_to_the_engine_and_a_scoring(world: World) -> None:
    spec = {**CULTURES, "method": "best_of_n", "reward_heads": ["warm"], "options": {"n": 3}}
    await world.prompted.chat(spec)
    assert await world.tree() == [REQUEST, "  plan", "  queue", "  chat fake", "  scoring"]
    assert attributes(await world.span("chat fake"))["gen_ai.request.choice.count"] == 3
    assert attributes(await world.span("scoring"))["steer.reward_heads"] == ("head-warm@1.0.0",)


async def test_a_streamed_answer_is_scored_at_its_end(world: World) -> None:
    await world.prompted.chat({**CULTURES, "reward_heads": ["warm"]}, stream=True)
    assert await world.tree() == [REQUEST, "  plan", "  queue", "  chat fake", "  scoring"]


async def test_align_pro_has_its_rewrite_once(world: World) -> None:
    world.prompted.writes(QUESTION, REWRITE)
    await world.prompted.chat()
    assert await world.tree() == [
        REQUEST,
        "  plan",
        "  rewrite",
        "    queue",
        "    chat fake",
        "  chat fake",
    ]
    assert attributes(await world.span("rewrite")) == {"steer.rewrite.status": "rewritten"}
    world.forget()
    await world.prompted.chat()
    assert await world.tree() == [REQUEST, "  plan", "  rewrite", "  chat fake"]
    assert attributes(await world.span("rewrite")) == {"steer.rewrite.status": "cached"}


async def test_diffpo_has_a_span_for_each_of_its_steps(world: World) -> None:
    options = {"draft": "w01 w02 w57. w03 w04 w58. w05 w06 w59.", "candidates": 16, "loops": 1}
    answer = await world.prompted.chat({"cultures": {"amber": 0.2}, "method": "diffpo", "options": options})
    tree = [
        REQUEST,
        "  plan",
        "  denoising",
        "    queue",
        "    judge",
        "    draw",
        "      text_completion fake",
    ]
    assert (await world.tree())[: len(tree) + 1] == [*tree, "    judge"]
    found = answer.steering["denoising"]
    assert attributes(await world.span("denoising")) == {
        "steer.denoising.loops": 1,
        "steer.denoising.outcome": found["outcome"],
    }
    assert answer.steering["timings_ms"]["denoising"] > 0


async def test_diffpo_without_a_draft_asks_for_one_first(world: World) -> None:
    await world.prompted.chat({"cultures": {"amber": 0.2}, "method": "diffpo", "options": {"loops": 1}})
    assert (await world.tree())[:4] == [REQUEST, "  plan", "  chat fake", "  denoising"]


async def test_an_upstream_is_told_of_the_trace_in_each_attempt(world: World) -> None:
    async def busy(exchange: Exchange) -> None:
        await exchange.reply(503, {})

    world.prompted.upstream.behaviours = [busy]
    await world.prompted.chat(None, model="up/big")
    assert await world.tree() == [REQUEST, "  plan", "  chat up/big", "    POST", "    POST"]
    call = await world.span("chat up/big")
    assert call.kind is SpanKind.CLIENT and attributes(call)["gen_ai.provider.name"] == "up"
    attempts = [span for span in world.spans() if span.name == "POST"]
    assert (
        attributes(attempts[0])["error.type"] == "5xx" or attempts[0].status.status_code is StatusCode.ERROR
    )
    assert attributes(attempts[1])["http.request.resend_count"] == 1
    told = [exchange.headers["traceparent"] for exchange in world.prompted.upstream.received]
    ids = [f"00-{s.context.trace_id:032x}-{s.context.span_id:016x}" for s in attempts]
    assert [header.rsplit("-", 1)[0] for header in told] == ids
    assert not {"baggage", "x-request-id"} & world.prompted.upstream.received[0].headers.keys()


async def test_a_clients_trace_goes_on(world: World) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1", "baggage": "a=b"}
    await world.prompted.chat(None, model="up/big", extra_headers=headers)
    root = await world.span(REQUEST)
    assert f"{root.context.trace_id:032x}" == TRACE == (await world.request())["trace_id"]
    assert root.parent is not None and f"{root.parent.span_id:016x}" == PARENT
    (exchange,) = world.prompted.upstream.received
    assert TRACE in exchange.headers["traceparent"] and exchange.headers["tracestate"] == "vendor=1"
    assert "baggage" not in exchange.headers


async def test_a_trace_that_the_client_does_not_sample_is_passed_on_and_not_recorded(world: World) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
    await world.prompted.chat(None, model="up/big", extra_headers=headers)
    assert (await world.request())["trace_id"] == TRACE and not world.spans()
    (exchange,) = world.prompted.upstream.received
    assert exchange.headers["traceparent"].startswith(f"00-{TRACE}-")
    assert exchange.headers["traceparent"].endswith("-00")


async def test_a_refused_request_says_why_and_is_no_failure_of_ours(world: World) -> None:
    with pytest.raises(openai.BadRequestError):
        await world.prompted.chat({"cultures": {"nowhere": 1.0}})
    assert await world.tree() == [REQUEST, "  plan"]
    root, plan = await world.span(REQUEST), await world.span("plan")
    assert attributes(plan) == {"error.type": "unknown_culture"}
    assert attributes(root)["error.type"] == "unknown_culture"
    assert root.status.status_code is StatusCode.UNSET


async def test_a_request_for_which_there_is_no_slot_fails_in_the_queue(world: World) -> None:
    leases = world.prompted.steer.leases
    snapshot = world.prompted.steer.catalogue.snapshot
    taken = await leases.acquire([one for one in snapshot.adapters if one.name != "denim"])
    try:
        with pytest.raises(openai.InternalServerError):
            await world.prompted.chat({"cultures": {"denim": 1.0}})
    finally:
        taken.release()
    assert await world.tree() == [REQUEST, "  plan", "  queue"]
    assert attributes(await world.span("queue")) == {"error.type": "no_bank_slot"}
    assert (await world.span(REQUEST)).status.status_code is StatusCode.ERROR


async def test_a_request_that_the_server_ends_failed_in_the_engine(world: World) -> None:
    world.prompted.engine.token_seconds = 0.02
    running = asyncio.create_task(world.prompted.chat(CULTURES, stream=True, max_tokens=200))
    while not world.prompted.engine.num_running:
        await asyncio.sleep(0.01)
    (held,) = {one for held in world.prompted.steer.running._by_digest.values() for one in held}
    held.abort(AbortedError("It is barred."))
    with pytest.raises(openai.APIError, match="barred"):
        await running
    call, root = await world.span("chat fake"), await world.span(REQUEST)
    assert attributes(call)["error.type"] == attributes(root)["error.type"] == "adapter_quarantined"
    assert attributes(root)["steer.outcome"] == "failed" and root.status.status_code is StatusCode.ERROR


async def test_a_client_that_leaves_ends_its_spans(world: World) -> None:
    world.prompted.engine.token_seconds = 0.02
    async with world.prompted.server.client() as client:
        stream = await client.chat.completions.create(
            model="fake",
            messages=[{"role": "user", "content": QUESTION}],
            stream=True,
            max_tokens=200,
            extra_body={"steering": CULTURES},
        )
        await anext(aiter(stream))
        await stream.close()
    assert await world.tree() == [REQUEST, "  plan", "  queue", "  chat fake"]
    assert attributes(await world.span(REQUEST))["steer.outcome"] == "left"


async def test_a_client_that_does_not_wait_for_its_answer_ends_its_spans(world: World) -> None:
    world.prompted.engine.token_seconds = 0.05
    waiting = asyncio.create_task(world.prompted.chat(CULTURES, max_tokens=200))
    while not world.prompted.engine.num_running:
        await asyncio.sleep(0.01)
    waiting.cancel()
    root, call = await world.span(REQUEST), await world.span("chat fake")
    assert attributes(root)["steer.outcome"] == "left"
    assert attributes(root)["http.response.status_code"] == 499
    assert attributes(call)["error.type"] == "CancelledError"


async def test_scores_alone_are_traced_too(world: World) -> None:
    body = {"messages": [{"role": "user", "content": QUESTION}], "answers": ["So."], "heads": ["warm"]}
    async with world.prompted.server.http() as http:
        (await http.post("/v1/rewards", json=body)).raise_for_status()
    assert await world.tree() == ["POST /v1/rewards", "  scoring"]
    assert (await world.request())["timings_ms"]["scoring"] > 0


async def test_other_routes_have_one_span_named_by_the_route(world: World) -> None:
    async with world.prompted.server.http() as http:
        await http.get("/v1/adapters/amber")
    assert await world.tree() == ["GET /v1/adapters/{name}"]


async def test_probes_and_scrapes_leave_nothing(world: World) -> None:
    async with world.prompted.server.http() as http:
        for path in ("/health", "/ready", "/metrics"):
            (await http.get(path)).raise_for_status()
        await http.get("/v1/models")
    assert (await world.request())["route"] == "/v1/models"
    assert await world.tree() == ["GET /v1/models"]


async def test_every_span_and_attribute_is_described(world: World) -> None:
    world.prompted.writes(QUESTION, REWRITE)
    await world.prompted.chat()
    await world.prompted.chat({**CULTURES, "method": "best_of_n", "reward_heads": ["warm"]}, stream=True)
    await world.prompted.chat({"cultures": {"amber": 0.2}, "method": "diffpo"})
    await world.prompted.chat(None, model="up/big", n=1, seed=1, top_p=0.5)
    await world.requests(4)
    words = set((described.__doc__ or "").replace(",", " ").replace(";", " ").split())
    assert {span.name.split()[0] for span in world.spans()} - {"POST"} <= words | {"text_completion"}
    assert {name for span in world.spans() for name in attributes(span)} <= words
