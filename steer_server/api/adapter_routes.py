"""Administration of adapters over HTTP: what is there, push, activate, roll back, quarantine, remove.

The guard has asked for the key: an operator's for acts and audit, any for what is there.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import AfterValidator, ConfigDict, Field
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from steer_server.api.bodies import Body, in_openapi, read_body
from steer_server.api.describe import describe_act, describe_move, describe_version
from steer_server.api.key_guard import caller_of
from steer_server.api.pushing import is_path, push_archive, push_folder
from steer_server.catalogue import views
from steer_server.catalogue.records import VersionRecord
from steer_server.catalogue.states import State
from steer_server.errors import CLIENT_CLOSED_STATUS, NotFoundError, RequestError
from steer_server.state import Server

router = APIRouter(tags=["adapters"])

ARCHIVE_TYPES = frozenset(
    {
        "application/gzip",
        "application/x-gzip",
        "application/x-tar",
        "application/zip",
        "application/octet-stream",
    }
)
MAX_ID = 2**63 - 1
FolderPath = Annotated[str, AfterValidator(is_path)]


class PushBody(Body):
    path: FolderPath
    """Of a folder, from the adapters directory."""


class QuarantineBody(Body):
    detail: Annotated[str, Field(max_length=1000)] = ""
    """Why, for people."""
    abort: bool = False
    """End running requests with an error."""


class LoadBody(Body):
    """vLLM's; it ignores further keys, and so do we."""

    model_config = ConfigDict(extra="ignore")

    lora_name: str
    lora_path: FolderPath
    load_inplace: bool = False


class UnloadBody(Body):
    model_config = ConfigDict(extra="ignore")

    lora_name: str


@router.get("/v1/adapters")
async def list_adapters(request: Request) -> Response:
    """Every version and its state here, and folders of the adapters directory that were refused, and why."""
    server: Server = request.app.state.steer
    record = await views.read(server.catalogue.database)
    versions = [describe_version(server, version) for version in record.versions.values()]
    known = {(version.name, version.reason) for version in record.versions.values()}
    refused = [
        {"name": r.folder_name, "state": State.QUARANTINED, "reason": r.reason, "detail": r.detail}
        for r in server.catalogue.refused
        if (r.folder_name, r.reason) not in known
    ]
    return JSONResponse({"data": versions + refused, "revision": record.revision})


@router.post(
    "/v1/adapters", status_code=201, openapi_extra=in_openapi(PushBody, others=sorted(ARCHIVE_TYPES))
)
async def push_adapter(request: Request) -> Response:
    """A package as the body (tar, tar.gz or zip), or `{"path": ...}` of a folder below the adapters
    directory. With `?activate=true` it is served when this answers."""
    server: Server = request.app.state.steer
    activate = _flag(request, "activate")
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type == "application/json":
        body = await read_body(request, PushBody)
        with server.metrics.lifecycle.act("push"):
            version = await push_folder(request, body.path, param="path", activate=activate)
    elif content_type in ARCHIVE_TYPES:
        try:
            with server.metrics.lifecycle.act("push"):
                version = await push_archive(request, activate=activate)
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED_STATUS)
    else:
        raise RequestError(
            f"Content-Type is {content_type or 'missing'}; send {', '.join(sorted(ARCHIVE_TYPES))} or "
            "application/json with `path`.",
            code="invalid_body",
        )
    return JSONResponse(describe_version(server, version), status_code=201)


@router.get("/v1/adapters/{name}")
async def show_adapter(name: str, request: Request) -> Response:
    """A name's versions with their manifests, and every move of its alias."""
    server: Server = request.app.state.steer
    record = await views.read(server.catalogue.database)
    versions = [version for version in record.versions.values() if version.name == name]
    moves = await views.history(server.catalogue.database, name)
    if not versions and not moves:
        raise NotFoundError(f"There is no adapter {name}.", code="adapter_not_found")
    return JSONResponse(
        {
            "name": name,
            "active": record.aliases.get(name),
            "versions": [
                {**describe_version(server, version), "manifest": dict(version.manifest)}
                for version in versions
            ],
            "history": [describe_move(move) for move in moves],
        }
    )


@router.delete("/v1/adapters/{name}")
async def remove_adapter(name: str, request: Request) -> Response:
    """Removes `?version=`, or the whole name: no more planning with it, running requests finish, files go
    last."""
    server: Server = request.app.state.steer
    actor = caller_of(request).actor
    record = await views.read(server.catalogue.database)
    wanted = request.query_params.get("version")
    versions = [
        version
        for version in record.versions.values()
        if version.name == name and wanted in (None, version.version)
    ]
    if not versions:
        raise NotFoundError(
            f"There is no adapter {name}@{wanted}." if wanted else f"There is no adapter {name}.",
            code="adapter_not_found",
        )
    lifecycle = server.catalogue.lifecycle
    with server.metrics.lifecycle.act("remove"):
        if wanted is None and record.aliases.get(name):
            await lifecycle.deactivate(name, actor)
        removed = [await lifecycle.remove(name, version.version, actor) for version in versions]
    return JSONResponse({"removed": [version.title for version in removed]})


@router.post("/v1/adapters/{name}/versions/{version}/activate")
async def activate_version(name: str, version: str, request: Request) -> Response:
    """The name's version from now on."""
    server: Server = request.app.state.steer
    with server.metrics.lifecycle.act("activate"):
        return _version(
            server, await server.catalogue.lifecycle.activate(name, version, caller_of(request).actor)
        )


@router.post("/v1/adapters/{name}/rollback")
async def roll_back(name: str, request: Request) -> Response:
    """The version that was active before."""
    server: Server = request.app.state.steer
    with server.metrics.lifecycle.act("rollback"):
        return _version(server, await server.catalogue.lifecycle.rollback(name, caller_of(request).actor))


@router.post("/v1/adapters/{name}/deactivate")
async def deactivate(name: str, request: Request) -> Response:
    """No version is active any more; `rollback` brings the last one back."""
    server: Server = request.app.state.steer
    with server.metrics.lifecycle.act("deactivate"):
        version = await server.catalogue.lifecycle.deactivate(name, caller_of(request).actor)
    return JSONResponse({"name": name, "deactivated": version and version.version})


@router.post(
    "/v1/adapters/{name}/versions/{version}/quarantine",
    openapi_extra=in_openapi(QuarantineBody, required=False),
)
async def quarantine_version(name: str, version: str, request: Request) -> Response:
    """New requests are refused from now on; running ones finish, or end with an error if `abort` is true.
    Body, if any: `{"detail": "why", "abort": false}`."""
    server: Server = request.app.state.steer
    body = await read_body(request, QuarantineBody) if await request.body() else QuarantineBody()
    with server.metrics.lifecycle.act("quarantine"):
        quarantined = await server.catalogue.lifecycle.quarantine(
            name, version, caller_of(request).actor, detail=body.detail, abort=body.abort
        )
    return _version(server, quarantined)


@router.post("/v1/adapters/{name}/versions/{version}/release")
async def release_version(name: str, version: str, request: Request) -> Response:
    """Out of quarantine: checked and probed anew, and not active."""
    server: Server = request.app.state.steer
    with server.metrics.lifecycle.act("release"):
        return _version(
            server, await server.catalogue.lifecycle.release(name, version, caller_of(request).actor)
        )


@router.get("/v1/audit")
async def audit(request: Request) -> Response:
    """Administrative acts, newest first: `?limit=`, `?before_id=`, `?name=`."""
    server: Server = request.app.state.steer
    entries = await views.audit(
        server.catalogue.database,
        limit=_number(request, "limit", most=views.MAX_LIMIT) or 100,
        before_id=_number(request, "before_id", most=MAX_ID),
        name=request.query_params.get("name"),
    )
    return JSONResponse({"data": [describe_act(entry) for entry in entries]})


@router.post("/v1/load_lora_adapter", openapi_extra=in_openapi(LoadBody))
async def load_lora_adapter(request: Request) -> Response:
    """vLLM's route, answered by the catalogue: `lora_path` below the adapters directory is pushed and
    activated. `lora_name` must be the name in its manifest; `load_inplace` is refused."""
    body = await read_body(request, LoadBody)
    if body.load_inplace:
        raise RequestError(
            "Versions never change in place: push a new version.", param="load_inplace", code="invalid_body"
        )
    server: Server = request.app.state.steer
    with server.metrics.lifecycle.act("push"):
        version = await push_folder(
            request, body.lora_path, param="lora_path", activate=True, name=body.lora_name
        )
    return PlainTextResponse(f"Success: LoRA adapter '{version.name}' added successfully.")


@router.post("/v1/unload_lora_adapter", openapi_extra=in_openapi(UnloadBody))
async def unload_lora_adapter(request: Request) -> Response:
    """vLLM's route, answered by the catalogue: the name is deactivated. 404 when it is not active."""
    server: Server = request.app.state.steer
    name = (await read_body(request, UnloadBody)).lora_name
    if await server.catalogue.lifecycle.deactivate(name, caller_of(request).actor) is None:
        raise NotFoundError(f"The adapter {name} is not active.", code="adapter_not_found")
    return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")


def _version(server: Server, version: VersionRecord) -> Response:
    return JSONResponse(describe_version(server, version))


def _flag(request: Request, name: str) -> bool:
    value = request.query_params.get(name, "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise RequestError(f"`{name}` is true or false.", param=name, code="invalid_query")
    return value in ("true", "1")


def _number(request: Request, name: str, *, most: int) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= most):
        raise RequestError(f"`{name}` is a whole number from 1 to {most}.", param=name, code="invalid_query")
    return int(text)
