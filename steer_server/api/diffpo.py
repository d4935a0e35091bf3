"""diffpo: a draft is moved toward what the steered distribution prefers, on the local model.

The client sends the draft, or the model that was asked writes it: the local one as it is, or an upstream's.
A stream begins when the answer is known, and then comes all at once. `usage` counts the draft and all that
was generated to better it; `steering.denoising` says what became of it.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from typing import Any

from starlette.responses import JSONResponse, Response, StreamingResponse

from steer_server.api.best_of_n import as_stream, wants_usage
from steer_server.api.encode import answer_texts
from steer_server.api.respond import Job, lease_slots, run_whole
from steer_server.api.steered_pair import MAX_FILLING_TOKENS, SAMPLING, Distribution, SteeredPair
from steer_server.errors import RequestError, UpstreamError
from steer_server.frozen.diffpo import Search, denoise
from steer_server.frozen.gaps import VARIANTS
from steer_server.frozen.outcome import Outcome, Report
from steer_server.frozen.statement import with_statement
from steer_server.frozen.user_prompt import as_messages
from steer_server.steering.denoising import Denoising
from steer_server.steering.fields import count
from steer_server.steering.plan import SteeringPlan

MAX_GAPS = 2
"""Places that are drawn anew in one loop."""

UNSUPPORTED = (
    "tools",
    "functions",
    "structured_outputs",
    "logprobs",
    "prompt_logprobs",
    "continue_final_message",
    "echo",
    "use_beam_search",
)
"""Fields of a chat request whose promises a text that was changed afterwards would not keep."""


async def diffpo(job: Job) -> Response:
    """The response: the draft, or what was made of it."""
    assert job.spec is not None and job.spec.denoising is not None
    _check(job)
    has_usage, denoising = wants_usage(job), job.spec.denoising
    pair = await _pair(job, denoising)
    found = _answer(job, denoising.draft or "", pair)
    (choice,) = found["choices"]
    if denoising.draft is None:
        # What an upstream's answer lacks is that of the empty one: a stream is made of all of it.
        drawn = await _drawn(job)
        choice |= next(iter(drawn["choices"]), {"message": None})
        found |= {**drawn, "choices": [choice]}
    with job.timings.stage("denoising") as stage:
        report = await _denoised(job, denoising, pair, _text_of(choice))
        stage.set({"steer.denoising.loops": report.num_loops, "steer.denoising.outcome": report.outcome})
    if report.outcome is Outcome.IMPROVED:
        choice["message"]["content"] = report.answer
    found["usage"] = _usage(found.get("usage"), pair)
    job.server.metrics.denoising.note(report)
    job.findings = {
        "denoising": {
            **report.describe(),
            "draft_by": "client" if denoising.draft is not None else found["model"],
            "variant": denoising.variant,
            "guidance": denoising.guidance,
            "statement": denoising.statement,
            "forward_tokens": vars(pair.forward),
        }
    }
    found["steering"] = await job.describe(answer_texts(found))
    if not job.body.get("stream"):
        return JSONResponse(found, headers=job.headers)
    return StreamingResponse(
        as_stream(found, has_usage=has_usage), media_type="text/event-stream", headers=job.headers
    )


def _check(job: Job) -> None:
    """Raises: RequestError for what diffpo does not do."""
    if job.route != "chat":
        raise RequestError(
            "diffpo answers conversations; use /v1/chat/completions.",
            param=f"{job.param}.method",
            code="method_unavailable",
        )
    body = job.body
    kept = {
        "n": (None, 1),
        "response_format": (None, {"type": "text"}),
        "add_generation_prompt": (None, True),
    }
    given = [name for name in UNSUPPORTED if body.get(name)]
    given += [name for name, allowed in kept.items() if body.get(name) not in allowed]
    if given:
        raise RequestError(
            f"diffpo gives one plain text, parts of which it has changed, and cannot keep what `{given[0]}` "
            "asks for; leave it out or use another method.",
            param=given[0],
            code="diffpo_unsupported",
        )
    # The engine's own checks do not see these when the draft is the client's.
    salt = body.get("cache_salt")
    if not (salt is None or (isinstance(salt, str) and salt)):
        raise RequestError("`cache_salt` must be a text that is not empty.", param="cache_salt")
    stops = body.get("stop")
    if not (stops is None or isinstance(stops, str) or _are_texts(stops)):
        raise RequestError("`stop` must be a text or a list of texts.", param="stop")
    for name in ("max_tokens", "max_completion_tokens"):
        if body.get(name) is not None:
            count(body[name], name)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _answer(job: Job, draft: str, pair: SteeredPair) -> dict[str, Any]:
    """A draft as an answer that nobody has written yet."""
    message = {"role": "assistant", "content": draft}
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": job.body.get("model") or job.server.engine.served_name,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": len(pair.reference.prompt), "completion_tokens": 0},
    }


async def _drawn(job: Job) -> dict[str, Any]:
    """The answer of the model that was asked, as it is. Raises: SteerError."""
    frozen = replace(job, answer_plan=SteeringPlan(job.plan.method))
    return await run_whole(frozen, job.body)


def _text_of(choice: dict[str, Any]) -> str:
    """Raises: UpstreamError when there is no message, or its content is no text."""
    message = choice["message"]
    if message is None or not isinstance(message.get("content"), str | None):
        raise UpstreamError("The model that was to write the draft sent no text.", code="upstream_garbled")
    return message.get("content") or ""


async def _pair(job: Job, denoising: Denoising) -> SteeredPair:
    """The two distributions of this request. Raises: SteerError for messages that the model does not take."""
    engine = job.server.engine
    body = job.body if job.runner is engine else {**job.body, "model": engine.served_name}
    plain = told = tuple(await engine.tokenise_chat(body, job.request))
    if denoising.statement is not None:
        messages = with_statement(as_messages(body["messages"]), denoising.statement)
        told = tuple(await engine.tokenise_chat({**body, "messages": messages}, job.request))
    stops = body.get("stop") or []
    return SteeredPair(
        replace(job, runner=engine, route="completion", body=body),
        steered=Distribution(job.plan, told),
        proposal=Distribution(job.plan.scaled(denoising.guidance), told),
        reference=Distribution(SteeringPlan(job.plan.method), plain),
        sampling={name: body[name] for name in SAMPLING if name in body},
        # At temperature 0 all would be the same.
        num_candidates=1 if body.get("temperature") == 0 else denoising.candidates,
        stops=[stops] if isinstance(stops, str) else stops,
        max_answer_tokens=engine.max_model_tokens - max(len(plain), len(told)) - MAX_FILLING_TOKENS,
    )


async def _denoised(job: Job, denoising: Denoising, pair: SteeredPair, draft: str) -> Report:
    """What became of the draft. Raises: SteerError."""
    if not draft.strip():
        return Report(draft, Outcome.EMPTY_DRAFT)
    if job.plan.is_base and denoising.statement is None:
        return Report(draft, Outcome.NO_STEERING)
    lease = await lease_slots(pair.job)
    try:
        (scored,) = await pair.score([draft])
        if scored is None:
            if denoising.draft is None:
                return Report(draft, Outcome.DRAFT_TOO_LONG)
            raise RequestError(
                f"With this conversation, a draft may have {max(pair.max_answer_tokens, 0)} tokens.",
                param=f"{job.param}.options.draft",
                code="context_length_exceeded",
            )
        wanted = job.body.get("max_completion_tokens") or job.body.get("max_tokens")
        if wanted is not None:
            # What the client sent may be longer than that already.
            pair.max_answer_tokens = min(pair.max_answer_tokens, max(wanted, len(scored.token_ids)))
        search = Search(VARIANTS[denoising.variant], denoising.loops, MAX_GAPS)
        return Report.of(await denoise(scored, pair, search))
    finally:
        if lease is not None:
            lease.release()


def _usage(of_draft: Any, pair: SteeredPair) -> dict[str, Any]:
    """The draft's, as its author counts, and what was generated to better it."""
    usage = dict(of_draft) if isinstance(of_draft, dict) else {}
    counts = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
    read, written = (value if isinstance(value, int) else 0 for value in counts.values())
    written += pair.forward.generated
    return {**usage, "prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
