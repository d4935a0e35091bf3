"""From a plan to a response: leases the slots, runs the engine, encodes, and gives everything back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from steer_server.api.encode import (
    DONE,
    PLAN_HEADER,
    GatheredAnswers,
    answer_texts,
    steering_object,
    with_last_chunk,
)
from steer_server.api.held import Held, HeldStream
from steer_server.api.scoring import Conversation, Scores
from steer_server.api.source import FIELD
from steer_server.catalogue.snapshot import Catalogue, LoadedRewardHead
from steer_server.engine.base import Answer, ChoiceScores, EngineRun, Route, Runner
from steer_server.engine.leases import Lease
from steer_server.errors import CLIENT_CLOSED_STATUS, CapacityError, SteerError
from steer_server.observing.genai import answer_attributes, begin_call
from steer_server.observing.request import observed
from steer_server.observing.spans import error_type, span
from steer_server.observing.timings import Timings
from steer_server.state import Server
from steer_server.steering.plan import SteeringPlan
from steer_server.steering.spec import SteeringSpec


@dataclass
class Job:
    """One planned request on its way to an answer."""

    server: Server
    runner: Runner
    """The engine, or the upstream that has the model."""
    route: Route
    body: dict[str, Any]
    plan: SteeringPlan
    catalogue: Catalogue
    """The snapshot that it was planned with."""
    request: Request
    timings: Timings
    spec: SteeringSpec | None
    """None: the client did not ask for steering, and gets no `steering` object."""
    heads: tuple[LoadedRewardHead, ...] = ()
    """That score the answer, which needs chat's messages."""
    conversation: Conversation = ()
    """The request's messages, when there are heads."""
    param: str = FIELD
    """How errors name the place of the spec."""
    answer_plan: SteeringPlan | None = None
    """What the answer is generated under, where that is not `plan`: a frozen model answers as it is."""
    findings: Mapping[str, Any] = field(default_factory=dict)
    """What the method adds to the response's `steering`."""
    choice_scores: Callable[[], ChoiceScores] | None = None
    """Of the answer, once it runs, when heads read it while it is generated."""

    @property
    def digests(self) -> list[str]:
        """Of all adapters and heads that it depends on."""
        return [gate.digest for gate in self.plan.adapters] + [head.digest for head in self.heads]

    @property
    def headers(self) -> dict[str, str]:
        return {PLAN_HEADER: self.plan.digest}

    @property
    def reads_generation(self) -> bool:
        """Whether heads read the answer while it is generated. Only methods of one run have that option."""
        return bool(self.heads) and self.spec is not None and self.spec.read == "generation"

    @property
    def cache_salt(self) -> str | None:
        """The body's; None also for one that only an upstream has seen and that our engine would refuse."""
        salt = self.body.get("cache_salt")
        return salt if isinstance(salt, str) and salt else None

    async def score(self, answers: Sequence[str | None]) -> Scores:
        """Scores of answers to this request by its heads: where they read the generation, of its choices."""
        if self.choice_scores is not None:
            return self.server.rewards.of_generation(self.heads, answers, self.choice_scores(), self.plan)
        texts = [(self.conversation, answer) for answer in answers]
        with self.timings.stage("scoring") as scoring:
            scoring.set({"steer.reward_heads": [head.title for head in self.heads]})
            work = self.server.rewards.score(self.heads, texts, self.plan, self.cache_salt)
            return await self.server.running.result_of(work, self.digests)

    async def describe(self, answers: Sequence[str | None]) -> dict[str, Any]:
        """The response's `steering`. Args: answers: what is given, in order of the choices."""
        rewards = (await self.score(answers)).describe() if self.heads else {}
        return {**steering_object(self.plan, self.timings, rewards), **self.findings}


async def respond(job: Job) -> Response:
    """The response to one request: what the engine answers."""
    answer, held = await run(job, job.body)
    if answer.events is None:
        body = await whole_body(answer, held)
        if job.spec is not None:
            body["steering"] = await job.describe(answer_texts(body))
        return JSONResponse(body, headers=job.headers)
    events = _until_aborted(answer.events, held)
    if job.spec is not None:
        gathered = GatheredAnswers()
        if job.heads:
            events = gathered.read(events)

        async def describe() -> dict[str, Any]:
            # The text is all there: what follows needs no slot.
            await asyncio.shield(held.give_back())
            return await job.describe(gathered.texts)

        events = with_last_chunk(events, describe)
    return HeldStream(events, held, job.headers)


async def lease_slots(job: Job) -> Lease | None:
    """Slots for what answers the job; None for the base model, which needs none. Raises: SteerError."""
    plan = job.answer_plan or job.plan
    if plan.is_base:
        return None
    adapters = [job.catalogue.by_digest[gate.digest] for gate in plan.adapters]
    try:
        with span("queue"):
            lease = await job.server.leases.acquire(adapters)
    except CapacityError:
        job.server.metrics.refused_total.inc()
        raise
    # Not the span's: it has the loading as well, which is no wait.
    job.timings.seconds["queue"] = lease.waited_seconds
    job.server.metrics.note_slot_wait(plan, lease.waited_seconds)
    return lease


async def run(job: Job, body: dict[str, Any], *, is_leased: bool = False) -> tuple[Answer, Held]:
    """The engine's answer to `body` under the job's plan for it, and what is held until it has ended.

    Args:
        is_leased: the caller holds the plan's slots itself, for longer than this one run. It must not lease
            them again: behind the head of the line that would wait for itself.

    Raises: SteerError; nothing is held then.
    """
    server, plan = job.server, job.answer_plan or job.plan
    lease = None if is_leased else await lease_slots(job)
    server.metrics.begin_run(plan)
    is_remote = job.runner is not server.engine
    call = begin_call(job.route, body, plan, provider=job.runner.provider, is_remote=is_remote)
    # Of all that it depends on: a rewrite's adapter is no part of the answer's own plan.
    digests = job.digests

    def on_end(held: Held) -> None:
        server.running.remove(held, digests)
        server.metrics.end_run(plan)
        if held.aborted is not None:
            call.fail(held.aborted.code)
        call.end()

    if job.reads_generation:
        started: EngineRun = server.engine.run(job.route, body, plan, job.request, reads_heads=True)
    else:
        started = job.runner.run(job.route, body, plan, job.request)
    held = Held(started, lease, on_end)
    server.running.add(held, digests)
    try:
        if held.aborted is not None:
            raise held.aborted
        with call.entered():
            answer = await held.run.answer()
        job.choice_scores = answer.choice_scores
        call.set(answer_attributes(answer.body or {}))
        return answer, held
    except BaseException as error:
        call.fail(error_type(held.aborted or error))
        await asyncio.shield(held.give_back())
        if held.aborted is not None and isinstance(error, Exception):
            raise held.aborted from error
        raise


async def run_whole(job: Job, body: Mapping[str, Any], *, is_leased: bool = False) -> dict[str, Any]:
    """The body of the engine's answer to `body`, which is no stream whatever the client asked for; nothing is
    held any more. Raises: SteerError; args as `run`."""
    asked = {key: value for key, value in body.items() if key != "stream_options"}
    return await whole_body(*await run(job, {**asked, "stream": False}, is_leased=is_leased))


async def whole_body(answer: Answer, held: Held) -> dict[str, Any]:
    """The body of an answer that is no stream; nothing is held any more. Raises: SteerError when
    the server ended the request."""
    await asyncio.shield(held.give_back())
    if held.aborted is not None:
        raise held.aborted
    assert answer.body is not None
    return answer.body


async def _until_aborted(events: AsyncIterator[str], held: Held) -> AsyncIterator[str]:
    """The same events; when the request was ended by the server, an error in place of the rest."""
    try:
        async for event in events:
            if held.aborted is not None:
                break
            yield event
    except Exception:
        if held.aborted is None:
            raise
    if held.aborted is not None:
        observed().note_error(held.aborted.code)
        yield f"data: {json.dumps(held.aborted.body())}\n\n"
        yield f"{DONE}\n\n"


async def until_disconnect(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The result of `work`, which is cancelled, and waited for, when the client goes away first.

    The request's body must have been read already: its messages are consumed here.
    """
    working = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait([working, gone], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
            await asyncio.wait([working])
            if working.cancelled():
                return Response(status_code=CLIENT_CLOSED_STATUS)
        return working.result()
    except asyncio.CancelledError:
        working.cancel()
        raise
    finally:
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def error_response(error: SteerError) -> JSONResponse:
    observed().note_error(error.code)
    return JSONResponse(error.body(), status_code=error.http_status, headers=error.headers)


def started_now() -> Timings:
    return Timings(started=time.perf_counter())
