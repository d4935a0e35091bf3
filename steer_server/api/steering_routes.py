"""Our own routes: what can be asked for, what a request would do, and readiness."""

from __future__ import annotations

import time
from collections.abc import Sequence

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from steer_server.api.align_pro import check_prompter, transform
from steer_server.api.json_body import read_json_object
from steer_server.api.key_guard import caller_of
from steer_server.api.respond import Job, error_response, started_now, until_disconnect
from steer_server.api.scoring import check_heads
from steer_server.api.source import FIELD, find_source
from steer_server.catalogue.snapshot import LoadedRewardHead
from steer_server.errors import NotFoundError, NotReadyError, RequestError, SteerError, short
from steer_server.state import Server
from steer_server.steering.plan import build_plan, describe_catalogue
from steer_server.steering.scoring import heads_of_spec
from steer_server.steering.spec import METHODS

router = APIRouter(tags=["steering"])


@router.get("/v1/steering")
async def get_steering(request: Request) -> Response:
    """What a request may name now: cultures, values, prompters, presets, methods; and the policy's limits."""
    server: Server = request.app.state.steer
    body = describe_catalogue(server.catalogue.snapshot, server.policy, server.presets)
    return JSONResponse({**body, "methods": list(METHODS)})


@router.post("/v1/steering/plan")
async def post_plan(request: Request) -> Response:
    """What a request with this `steering` (or model id, or header) would do, without generating."""
    try:
        job, heads = await _planned(request)
    except SteerError as error:
        return error_response(error)
    titles = {head.manifest.head: head.title for head in heads}
    return JSONResponse({**job.plan.describe(), "reward_heads": titles})


@router.post("/v1/steering/transform")
async def post_transform(request: Request) -> Response:
    """What a chat request with method align_pro would send in place of its last user message; nothing is
    answered."""
    try:
        job, heads = await _planned(request)
        if job.plan.method != "align_pro":
            raise RequestError(
                f"Method {job.plan.method!r} rewrites nothing; use method 'align_pro'.",
                param=f"{job.param}.method",
                code="method_unavailable",
            )
        if heads:
            raise RequestError(
                "Reward heads score answers, and here is none.",
                param=f"{job.param}.reward_heads",
                code="reward_heads_unavailable",
            )
        model = job.body.get("model")
        if job.server.upstreams.find(model) is None and model not in (None, job.server.engine.served_name):
            raise NotFoundError(f"The model `{short(str(model))}` does not exist.", param="model")
        with job.server.leases.expecting(job.digests):
            return await until_disconnect(request, transform(job))
    except SteerError as error:
        return error_response(error)


async def _planned(request: Request) -> tuple[Job, Sequence[LoadedRewardHead]]:
    """What a chat request with this body would do, and the heads that would score its answer.

    Raises: SteerError.
    """
    server: Server = request.app.state.steer
    timings = started_now()
    body = await read_json_object(request)
    source = find_source(body, request.headers, server.model_names())
    if server.upstreams.find(body.get("model")) is not None:
        server.upstreams.check_spec(body["model"], source.spec, param=source.param)
    if source.spec is None:
        raise RequestError(f"Give `{FIELD}`, or a steered model id as `model`.", param=FIELD)
    server.keys.check_spec(caller_of(request), source.spec, param=source.param)
    catalogue = server.catalogue.snapshot
    plan = build_plan(source.spec, catalogue, server.policy, param=source.param)
    check_prompter(caller_of(request), plan, catalogue, param=source.param)
    heads = heads_of_spec(source.spec, catalogue, server.policy, param=source.param)
    check_heads(caller_of(request), heads)
    timings.seconds["plan"] = time.perf_counter() - timings.started
    job = Job(
        server,
        server.engine,
        "chat",
        source.body,
        plan,
        catalogue,
        request,
        timings,
        source.spec,
        param=source.param,
    )
    return job, tuple(heads.values())


@router.get("/ready")
async def ready(request: Request) -> Response:
    """200 when steered requests are served: the engine lives, every active adapter passed its probe, and the
    server was not told to stop."""
    server: Server = request.app.state.steer
    try:
        server.drain.check()
        await server.engine.check_health()
    except SteerError as error:
        return error_response(NotReadyError(str(error)))
    return JSONResponse(
        {
            "ready": True,
            "model": server.engine.served_name,
            "adapters": len(server.catalogue.snapshot.adapters),
            "refused": [r.folder_name for r in server.catalogue.refused],
            "bank": server.bank,
        }
    )
