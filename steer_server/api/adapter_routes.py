"""Administration of adapters over HTTP: what is there, push, activate, roll back, quarantine, remove."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from steer_server.api.openai_routes import read_json_object
from steer_server.catalogue import views
from steer_server.catalogue.package import stage_archive, stage_folder
from steer_server.catalogue.records import Actor, AuditEntry, VersionRecord
from steer_server.catalogue.states import State
from steer_server.errors import NotFoundError, RequestError
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


@router.get("/v1/adapters")
async def list_adapters(request: Request) -> Response:
    """Every version and its state here, and folders of the adapters directory that were refused, and why."""
    server: Server = request.app.state.steer
    await server.keys.application(request)
    record = await views.read(server.catalogue.database)
    versions = [describe_version(server, version) for version in record.versions.values()]
    known = {(version.name, version.reason) for version in record.versions.values()}
    refused = [
        {"name": r.folder_name, "state": State.QUARANTINED, "reason": r.reason, "detail": r.detail}
        for r in server.catalogue.refused
        if (r.folder_name, r.reason) not in known
    ]
    return JSONResponse({"data": versions + refused, "revision": record.revision})


@router.post("/v1/adapters", status_code=201)
async def push_adapter(request: Request) -> Response:
    """A package as the body (tar, tar.gz or zip), or `{"path": ...}` of a folder below the adapters
    directory. With `?activate=true` it is served when this answers."""
    server: Server = request.app.state.steer
    actor = await _operator(request)
    activate = _flag(request, "activate")
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    staging = server.catalogue.store.staging
    if content_type == "application/json":
        body = await read_json_object(request)
        version = await _push_folder(server, actor, body, "path", activate=activate)
    elif content_type in ARCHIVE_TYPES:
        async with stage_archive(request.stream(), staging) as package:
            version = await server.catalogue.lifecycle.push(package, actor, activate=activate)
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
    await server.keys.application(request)
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
            "history": [
                {
                    "action": move.action,
                    "version": move.version,
                    "digest": move.digest,
                    "previous": move.previous,
                    "actor": move.actor,
                    "at": move.at.isoformat(),
                }
                for move in moves
            ],
        }
    )


@router.delete("/v1/adapters/{name}")
async def remove_adapter(name: str, request: Request) -> Response:
    """Removes `?version=`, or the whole name: no more planning with it, running requests finish, files go
    last."""
    server: Server = request.app.state.steer
    actor = await _operator(request)
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
    if wanted is None and record.aliases.get(name):
        await lifecycle.deactivate(name, actor)
    removed = [await lifecycle.remove(name, version.version, actor) for version in versions]
    return JSONResponse({"removed": [version.title for version in removed]})


@router.post("/v1/adapters/{name}/versions/{version}/activate")
async def activate_version(name: str, version: str, request: Request) -> Response:
    """The name's version from now on."""
    server: Server = request.app.state.steer
    actor = await _operator(request)
    return _version(server, await server.catalogue.lifecycle.activate(name, version, actor))


@router.post("/v1/adapters/{name}/rollback")
async def roll_back(name: str, request: Request) -> Response:
    """The version that was active before."""
    server: Server = request.app.state.steer
    actor = await _operator(request)
    return _version(server, await server.catalogue.lifecycle.rollback(name, actor))


@router.post("/v1/adapters/{name}/deactivate")
async def deactivate(name: str, request: Request) -> Response:
    """No version is active any more; `rollback` brings the last one back."""
    server: Server = request.app.state.steer
    actor = await _operator(request)
    version = await server.catalogue.lifecycle.deactivate(name, actor)
    return JSONResponse({"name": name, "deactivated": version and version.version})


@router.post("/v1/adapters/{name}/versions/{version}/quarantine")
async def quarantine_version(name: str, version: str, request: Request) -> Response:
    """New requests are refused from now on; running ones finish, or end with an error if `abort` is true.
    Body, if any: `{"detail": "why", "abort": false}`."""
    server: Server = request.app.state.steer
    actor = await _operator(request)
    body = await read_json_object(request) if await request.body() else {}
    detail, abort = body.get("detail", ""), body.get("abort", False)
    if not isinstance(detail, str) or not isinstance(abort, bool):
        raise RequestError("`detail` is a text and `abort` true or false.", param="abort")
    lifecycle = server.catalogue.lifecycle
    return _version(server, await lifecycle.quarantine(name, version, actor, detail=detail, abort=abort))


@router.post("/v1/adapters/{name}/versions/{version}/release")
async def release_version(name: str, version: str, request: Request) -> Response:
    """Out of quarantine: checked and probed anew, and not active."""
    server: Server = request.app.state.steer
    actor = await _operator(request)
    return _version(server, await server.catalogue.lifecycle.release(name, version, actor))


@router.get("/v1/audit")
async def audit(request: Request) -> Response:
    """Administrative acts, newest first: `?limit=`, `?before_id=`, `?name=`."""
    server: Server = request.app.state.steer
    await _operator(request)
    query = request.query_params
    try:
        limit = int(query.get("limit", "100"))
        before = int(query["before_id"]) if "before_id" in query else None
    except ValueError as error:
        raise RequestError("`limit` and `before_id` are whole numbers.", param="limit") from error
    entries = await views.audit(
        server.catalogue.database, limit=limit, before_id=before, name=query.get("name")
    )
    return JSONResponse({"data": [_audit_entry(entry) for entry in entries]})


@router.post("/v1/load_lora_adapter")
async def load_lora_adapter(request: Request) -> Response:
    """vLLM's route, answered by the catalogue: `lora_path` below the adapters directory is pushed and
    activated. `lora_name` must be the name in its manifest; `load_inplace` is refused."""
    server: Server = request.app.state.steer
    actor = await _operator(request)
    body = await read_json_object(request)
    if body.get("load_inplace"):
        raise RequestError("Versions never change in place: push a new version.", param="load_inplace")
    version = await _push_folder(server, actor, body, "lora_path", activate=True, name=body.get("lora_name"))
    return PlainTextResponse(f"Success: LoRA adapter '{version.name}' added successfully.")


@router.post("/v1/unload_lora_adapter")
async def unload_lora_adapter(request: Request) -> Response:
    """vLLM's route, answered by the catalogue: the name is deactivated."""
    server: Server = request.app.state.steer
    actor = await _operator(request)
    name = (await read_json_object(request)).get("lora_name")
    if not isinstance(name, str):
        raise RequestError("`lora_name` is missing.", param="lora_name")
    await server.catalogue.lifecycle.deactivate(name, actor)
    return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")


def describe_version(server: Server, version: VersionRecord) -> dict[str, Any]:
    """A version as this replica sees it."""
    replica, digest = server.catalogue.replica, version.digest
    draining = digest in replica.draining and version.state is State.RETIRED
    described = {
        "name": version.name,
        "version": version.version,
        "kind": version.kind,
        "state": State.DRAINING if draining else version.state,
        "digest": digest,
        "base_model": version.manifest["base_model"],
        "description": version.manifest.get("description", ""),
        "licence": version.manifest.get("licence", ""),
        "size_bytes": version.size_bytes,
        "signature": version.signature,
        "pushed_by": version.pushed_by,
        "created_at": version.created_at.isoformat(),
        "updated_at": version.updated_at.isoformat(),
    }
    if version.manifest.get("head"):
        described["head"] = version.manifest["head"]
    if version.reason:
        described |= {"reason": version.reason, "detail": version.detail}
    if problem := replica.problems.get(digest):
        described["problem"] = problem
    return described


async def _push_folder(
    server: Server,
    actor: Actor,
    body: dict[str, Any],
    key: str,
    *,
    activate: bool,
    name: str | None = None,
) -> VersionRecord:
    given, directory = body.get(key), server.catalogue.directory
    if not isinstance(given, str):
        raise RequestError(f"`{key}` is missing.", param=key)
    if directory is None:
        raise RequestError("This server has no adapters directory; send the package itself.", param=key)
    path = directory.path / Path(given)
    async with stage_folder(path, directory.path, server.catalogue.store.staging) as package:
        if name is not None and name != package.manifest.name:
            raise RequestError(
                f"The folder's manifest says {package.manifest.name!r}, not {name!r}.", param="lora_name"
            )
        return await server.catalogue.lifecycle.push(package, actor, activate=activate)


def _version(server: Server, version: VersionRecord) -> Response:
    return JSONResponse(describe_version(server, version))


def _audit_entry(entry: AuditEntry) -> dict[str, Any]:
    return {**vars(entry), "at": entry.at.isoformat()}


async def _operator(request: Request) -> Actor:
    server: Server = request.app.state.steer
    return (await server.keys.operator(request)).actor


def _flag(request: Request, name: str) -> bool:
    value = request.query_params.get(name, "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise RequestError(f"`{name}` is true or false.", param=name)
    return value in ("true", "1")
