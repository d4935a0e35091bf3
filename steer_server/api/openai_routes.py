"""The OpenAI routes that understand `steering`: chat, completions and models."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from steer_server.api.json_body import read_json_object
from steer_server.api.key_guard import caller_of
from steer_server.api.programs import add_heads, run_program
from steer_server.api.respond import Job, error_response, started_now, until_disconnect
from steer_server.api.source import FIELD, HEADER, find_source
from steer_server.api.watch import RequestWatch
from steer_server.engine.base import Route
from steer_server.errors import NotFoundError
from steer_server.observing.timings import Timings
from steer_server.state import Server
from steer_server.steering.plan import BASE_PLAN, build_plan
from steer_server.steering.spec import METHODS

router = APIRouter(tags=["openai"])

_STEERED_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "description": "An OpenAI request; all of vLLM's fields, and `steering`.",
                    "properties": {
                        "model": {"type": "string"},
                        "stream": {"type": "boolean"},
                        FIELD: {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {
                                "cultures": {"type": "object", "additionalProperties": {"type": "number"}},
                                "values": {"type": "object", "additionalProperties": {"type": "number"}},
                                "strength": {"type": "number", "default": 1.0},
                                "method": {"type": "string", "enum": list(METHODS)},
                                "reward_heads": {"type": "array", "items": {"type": "string"}},
                                "options": {"type": "object"},
                            },
                        },
                    },
                }
            }
        },
    }
}


@router.post("/v1/chat/completions", openapi_extra=_STEERED_BODY)
async def chat_completions(request: Request) -> Response:
    """Chat, steered by the body's `steering`, by the `X-Steering` header or by a model id `base@culture`."""
    return await _steered("chat", request)


@router.post("/v1/completions", openapi_extra=_STEERED_BODY)
async def completions(request: Request) -> Response:
    """Text completion, steered in the same ways as chat."""
    return await _steered("completion", request)


async def _steered(route: Route, request: Request) -> Response:
    timings = started_now()
    watch = RequestWatch(request.app.state.steer.metrics, route, timings)
    return await watch.response(_answer(route, request, timings, watch))


async def _answer(route: Route, request: Request, timings: Timings, watch: RequestWatch) -> Response:
    """Raises: SteerError."""
    server: Server = request.app.state.steer
    body = await read_json_object(request)
    timings.started = time.perf_counter()
    with timings.stage("plan"):
        job = _planned(route, request, body, timings)
    watch.plan = job.plan
    server.metrics.plan_seconds.observe(timings.seconds["plan"])
    with server.leases.expecting(job.digests):
        return await until_disconnect(request, run_program(job))


def _planned(route: Route, request: Request, body: dict[str, Any], timings: Timings) -> Job:
    """Raises: SteerError."""
    server: Server = request.app.state.steer
    names = server.model_names()
    source = find_source(body, request.headers, names)
    relay = server.upstreams.find(body.get("model"))
    if relay is not None:
        server.upstreams.check_spec(body["model"], source.spec, param=source.param)
    plan = BASE_PLAN
    if source.spec is not None:
        server.keys.check_spec(caller_of(request), source.spec, param=source.param)
        plan = build_plan(source.spec, names.catalogue, server.policy, param=source.param)
    job = Job(
        server,
        relay or server.engine,
        route,
        source.body,
        plan,
        names.catalogue,
        request,
        timings,
        source.spec,
        param=source.param,
    )
    if source.spec is not None and source.spec.reward_heads:
        add_heads(job, source.param)
    return job


@router.get("/v1/models")
async def list_models(request: Request) -> Response:
    """The base model, every culture as `base@culture`, every preset, and `NAME/model` of every upstream."""
    return JSONResponse({"object": "list", "data": _cards(request.app.state.steer)})


@router.get("/v1/models/{model_id:path}")
async def retrieve_model(model_id: str, request: Request) -> Response:
    """One of the models above."""
    for card in _cards(request.app.state.steer):
        if card["id"] == model_id:
            return JSONResponse(card)
    return error_response(NotFoundError(f"The model `{model_id}` does not exist.", param="model"))


def _cards(server: Server) -> list[dict[str, Any]]:
    names = server.model_names()

    def card(model_id: str, parent: str | None) -> dict[str, Any]:
        return {
            "id": model_id,
            "object": "model",
            "created": server.started_unix_seconds,
            "owned_by": "steer-server",
            "root": names.base,
            "parent": parent,
        }

    ours = [card(names.base, None), *(card(model_id, names.base) for model_id in names.ids())]
    return ours + server.upstreams.cards()


STEERED_PATHS = frozenset(
    {"/v1/chat/completions", "/v1/completions", "/v1/steering/plan", "/v1/steering/transform"}
)
STEERED_HEADER = HEADER.lower().encode()
