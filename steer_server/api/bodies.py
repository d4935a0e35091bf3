"""Bodies of administration: JSON that a pydantic model describes, refused by the name of what is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from steer_server.api.json_body import json_object, read_json_text
from steer_server.errors import RequestError

MAX_SHOWN_CHARACTERS = 80


class Body(BaseModel):
    """A body in which a misspelt key is an error, not a wish that is ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


AnyBody = TypeVar("AnyBody", bound=BaseModel)


async def read_body(request: Request, model: type[AnyBody]) -> AnyBody:
    """The request's body.

    Raises: as `read_json_text`; RequestError `invalid_body` (400): not a JSON object, or `param` is the first
    field that is wrong.
    """
    text = await read_json_text(request)
    json_object(text)
    try:
        # From the text: what JSON cannot say otherwise, such as a date, is still taken from a string.
        return model.model_validate_json(text)
    except ValidationError as error:
        problems = [(_place(e["loc"]), _problem(e["type"], e["msg"])) for e in error.errors()]
        told = "; ".join(f"`{place}`: {problem}" if place else problem for place, problem in problems[:5])
        raise RequestError(told, param=problems[0][0] or None, code="invalid_body") from error


def in_openapi(
    model: type[BaseModel], *, others: Iterable[str] = (), required: bool = True
) -> dict[str, Any]:
    """A route's `openapi_extra` that describes its body.

    Args:
        others: content types that it also takes, as bytes.
    """
    schema = model.model_json_schema()
    inner = schema.pop("$defs", {})
    for name, part in schema["properties"].items():
        # References would point into the whole document.
        if "$ref" in part:
            schema["properties"][name] = inner[part["$ref"].rsplit("/", 1)[-1]]
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    content |= {kind: {"schema": {"type": "string", "format": "binary"}} for kind in others}
    return {"requestBody": {"required": required, "content": content}}


def _place(parts: tuple[int | str, ...]) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")
    return path.encode("unicode_escape").decode()[:MAX_SHOWN_CHARACTERS]


def _problem(kind: str, message: str) -> str:
    words = {"extra_forbidden": "unknown key", "missing": "missing"}
    return words.get(kind, message.removeprefix("Value error, "))
