"""align_pro: a prompter rewrites the last user message, and the model that is asked answers as it is.

That model is the local one without adapters, or an upstream's; all else of the request stays the client's, so
that tools, structured output and streams work as ever. Reward heads score the answer to what the user wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from steer_server.api.key_guard import caller_of
from steer_server.api.keys import Caller
from steer_server.api.respond import Job, respond, run_whole, started_now
from steer_server.catalogue.snapshot import Catalogue
from steer_server.errors import DeniedError, RequestError
from steer_server.frozen.rewriting import Rewrite, Written
from steer_server.frozen.user_prompt import as_messages, last_user_text, system_texts, with_last_user_text
from steer_server.steering.plan import SteeringPlan


async def align_pro(job: Job) -> Response:
    """The response: the frozen model's, with `prompt` and `rewrite` in its `steering`."""
    if job.route != "chat":
        raise RequestError(
            "align_pro rewrites the last message of a conversation; use /v1/chat/completions.",
            param=f"{job.param}.method",
            code="method_unavailable",
        )
    rewrite = await _rewrite(job)
    if rewrite.problem is None:
        messages = with_last_user_text(as_messages(job.body["messages"]), rewrite.prompt or "")
        job.body = {**job.body, "messages": messages}
    job.answer_plan = SteeringPlan(job.plan.method)
    job.findings = rewrite.describe()
    return await respond(job)


async def transform(job: Job) -> Response:
    """The rewrite alone: what `align_pro` would send."""
    rewrite = await _rewrite(job)
    found = {**job.plan.describe(), "original": rewrite.original, **rewrite.describe()}
    return JSONResponse({**found, "timings_ms": job.timings.milliseconds()}, headers=job.headers)


async def _rewrite(job: Job) -> Rewrite:
    messages = as_messages(job.body.get("messages"))
    check_prompter(caller_of(job.request), job.plan, job.catalogue, param=job.param)

    async def write(body: Mapping[str, Any]) -> Written:
        return await _write(job, body)

    with job.timings.stage("rewrite") as stage:
        rewrite = await job.server.rewriter.rewrite(
            last_user_text(messages),
            job.plan,
            write,
            secrets=system_texts(messages),
            salt=str(job.body.get("cache_salt") or ""),
        )
        reason = rewrite.problem.reason if rewrite.problem else None
        stage.set({"steer.rewrite.status": rewrite.status, "steer.rewrite.reason": reason})
    return rewrite


async def _write(job: Job, body: Mapping[str, Any]) -> Written:
    """What the prompter writes, in a request of its own, which others may share and the client may leave."""
    engine = job.server.engine
    nobody = Request({"type": "http", "headers": [], "method": "POST"})
    asking = Job(
        job.server,
        engine,
        "chat",
        {"model": engine.served_name, **body},
        job.plan,
        job.catalogue,
        nobody,
        started_now(),
        None,
    )
    found = await run_whole(asking, asking.body)
    (choice,) = found["choices"]
    return Written(choice["message"]["content"] or "", choice["finish_reason"] == "stop")


def check_prompter(caller: Caller, plan: SteeringPlan, catalogue: Catalogue, *, param: str) -> None:
    """Raises: DeniedError (403) for a prompter of a culture that the caller's key may not use."""
    allowed = caller.limits.cultures
    for gate in plan.adapters:
        prompter = catalogue.by_digest[gate.digest].manifest.prompter
        culture = prompter.culture if prompter else None
        if allowed is not None and culture is not None and culture not in allowed:
            raise DeniedError(
                f"This key may not use {gate.name!r}, a prompter for the culture {culture!r}.",
                param=f"{param}.options.prompter",
                code="culture_not_allowed",
            )
