"""Keys over HTTP, for operators: made, listed, revoked."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import AfterValidator, AwareDatetime, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from steer_server.api.bodies import Body, in_openapi, read_body
from steer_server.api.key_guard import caller_of
from steer_server.catalogue import keys
from steer_server.catalogue.manifest import Name
from steer_server.catalogue.records import KeyLimits, KeyRecord, KeyRole
from steer_server.catalogue.tables import now
from steer_server.state import Server

router = APIRouter(tags=["keys"])

MAX_NUMBER = 10**9
"""The database's columns hold 32 bits."""
MAX_NAMES = 1000


def _is_to_come(at: datetime) -> datetime:
    if at <= now():
        raise ValueError("must be in the future")
    return at


Names = Annotated[frozenset[Name], Field(max_length=MAX_NAMES)]
Number = Annotated[int, Field(ge=1, le=MAX_NUMBER)]


class LimitsBody(Body):
    """What is left out is not limited."""

    cultures: Names | None = None
    axes: Names | None = None
    requests_per_minute: Number | None = None
    concurrency: Number | None = None
    """Requests at one time, on one replica."""
    expires_at: Annotated[AwareDatetime, AfterValidator(_is_to_come)] | None = None
    """RFC 3339, with a time zone."""


class KeyBody(Body):
    label: Annotated[str, Field(max_length=keys.MAX_LABEL_CHARACTERS, pattern=r"\S")]
    """What people recognise the key by."""
    role: KeyRole = "application"
    limits: LimitsBody = LimitsBody()


@router.post("/v1/keys", status_code=201, openapi_extra=in_openapi(KeyBody))
async def create_key(request: Request) -> Response:
    """A new key. `secret` is in this answer and nowhere else, ever. From the first application key on,
    requests without a key are refused."""
    server: Server = request.app.state.steer
    body = await read_body(request, KeyBody)
    limits = KeyLimits(**dict(body.limits))
    actor = caller_of(request).actor
    key, secret = await keys.create_key(server.catalogue.database, actor, body.role, body.label, limits)
    server.keys.forget()
    return JSONResponse(
        {**describe_key(key), "secret": secret}, status_code=201, headers={"Cache-Control": "no-store"}
    )


@router.get("/v1/keys")
async def list_keys(request: Request) -> Response:
    """Every key without its secret, revoked ones too, oldest first."""
    server: Server = request.app.state.steer
    found = await keys.list_keys(server.catalogue.database)
    return JSONResponse({"data": [describe_key(key) for key in found]})


@router.delete("/v1/keys/{key_id}")
async def revoke_key(key_id: str, request: Request) -> Response:
    """The key, which is refused from now on; on other replicas as soon as they follow. Its running requests
    finish."""
    server: Server = request.app.state.steer
    key = await keys.revoke_key(server.catalogue.database, caller_of(request).actor, key_id)
    server.keys.forget()
    return JSONResponse(describe_key(key))


def describe_key(key: KeyRecord) -> dict[str, Any]:
    limits = key.limits
    return {
        "id": key.id,
        "role": key.role,
        "prefix": key.prefix,
        "label": key.label,
        "limits": {
            "cultures": None if limits.cultures is None else sorted(limits.cultures),
            "axes": None if limits.axes is None else sorted(limits.axes),
            "requests_per_minute": limits.requests_per_minute,
            "concurrency": limits.concurrency,
            "expires_at": _time(limits.expires_at),
        },
        "created_at": _time(key.created_at),
        "created_by": key.created_by,
        "last_used_at": _time(key.last_used_at),
        "revoked_at": _time(key.revoked_at),
    }


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
