"""Our own routes: what can be asked for, what a request would do, and readiness."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from steer_server.api.key_guard import caller_of
from steer_server.api.openai_routes import read_json_object
from steer_server.api.respond import error_response
from steer_server.api.scoring import check_heads
from steer_server.api.source import FIELD, find_source
from steer_server.errors import NotReadyError, RequestError, SteerError
from steer_server.state import Server
from steer_server.steering.plan import build_plan, describe_catalogue
from steer_server.steering.scoring import heads_of_spec
from steer_server.steering.spec import METHODS

router = APIRouter(tags=["steering"])


@router.get("/v1/steering")
async def get_steering(request: Request) -> Response:
    """Cultures, value axes, presets and methods that a request may name now, and the policy's limits."""
    server: Server = request.app.state.steer
    body = describe_catalogue(server.catalogue.snapshot, server.policy, server.presets)
    return JSONResponse({**body, "methods": list(METHODS)})


@router.post("/v1/steering/plan")
async def post_plan(request: Request) -> Response:
    """What a request with this `steering` (or model id, or header) would do, without generating."""
    server: Server = request.app.state.steer
    try:
        body = await read_json_object(request)
        source = find_source(body, request.headers, server.model_names())
        if server.upstreams.find(body.get("model")) is not None:
            server.upstreams.check_spec(body["model"], source.spec, param=source.param)
        if source.spec is None:
            raise RequestError(f"Give `{FIELD}`, or a steered model id as `model`.", param=FIELD)
        server.keys.check_spec(caller_of(request), source.spec, param=source.param)
        catalogue = server.catalogue.snapshot
        plan = build_plan(source.spec, catalogue, server.policy, param=source.param)
        heads = heads_of_spec(source.spec, catalogue, server.policy, param=source.param)
        check_heads(caller_of(request), heads)
    except SteerError as error:
        return error_response(error)
    titles = {head.manifest.head: head.title for head in heads.values()}
    return JSONResponse({**plan.describe(), "reward_heads": titles})


@router.get("/ready")
async def ready(request: Request) -> Response:
    """200 when steered requests are served: the engine lives and every active adapter passed its probe."""
    server: Server = request.app.state.steer
    try:
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
