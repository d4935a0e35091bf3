"""Our own routes: what can be asked for, what a request would do, what is loaded, and readiness."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from steer_server.api.openai_routes import read_json_object
from steer_server.api.respond import error_response
from steer_server.api.source import FIELD, find_source
from steer_server.errors import NotReadyError, RequestError, SteerError
from steer_server.state import Server
from steer_server.steering.plan import build_plan, describe_catalogue
from steer_server.steering.spec import METHODS

router = APIRouter(tags=["steering"])


@router.get("/v1/steering")
async def get_steering(request: Request) -> Response:
    """Cultures, value axes, presets and methods that a request may name now, and the policy's limits."""
    server: Server = request.app.state.steer
    body = describe_catalogue(server.catalogue, server.policy, server.presets)
    return JSONResponse({**body, "methods": list(METHODS)})


@router.post("/v1/steering/plan")
async def post_plan(request: Request) -> Response:
    """What a request with this `steering` (or model id, or header) would do, without generating."""
    server: Server = request.app.state.steer
    try:
        source = find_source(await read_json_object(request), request.headers, server.model_names())
        if source.spec is None:
            raise RequestError(f"Give `{FIELD}`, or a steered model id as `model`.", param=FIELD)
        plan = build_plan(source.spec, server.catalogue, server.policy, param=source.param)
    except SteerError as error:
        return error_response(error)
    return JSONResponse(plan.describe())


@router.get("/v1/adapters")
async def list_adapters(request: Request) -> Response:
    """Every adapter that was found: active, validated (a reward head: not probed), or refused and why."""
    server: Server = request.app.state.steer
    active: list[dict[str, Any]] = [
        {
            "name": adapter.name,
            "version": adapter.version,
            "kind": adapter.manifest.kind,
            "state": "active",
            "digest": adapter.digest,
            "base_model": adapter.manifest.base_model,
            "rank": adapter.rank,
            "licence": adapter.manifest.licence,
        }
        for adapter in server.catalogue.adapters
    ]
    heads = [
        {
            "name": head.name,
            "version": head.version,
            "kind": head.manifest.kind,
            "state": "validated",
            "digest": head.digest,
            "base_model": head.manifest.base_model,
            "head": head_id,
            "licence": head.manifest.licence,
        }
        for head_id, head in server.catalogue.reward_heads.items()
    ]
    refused = [
        {"name": r.folder_name, "state": "quarantined", "reason": r.reason, "detail": r.detail}
        for r in server.refused
    ]
    return JSONResponse({"data": active + heads + refused})


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
            "adapters": len(server.catalogue.adapters),
            "refused": [r.folder_name for r in server.refused],
            "bank": server.bank,
        }
    )
