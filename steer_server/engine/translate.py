"""vLLM's exceptions as ours. vLLM's own table decides status and message; 5xx become EngineError."""

from __future__ import annotations

import json

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.requests import Request
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
from vllm.entrypoints.serve.exception_handling.handlers.validation import validation_exception_handler
from vllm.v1.engine.exceptions import EngineDeadError

from steer_server.errors import EngineError, EngineRefusal, SteerError


async def invalid_body(error: ValidationError, request: Request) -> SteerError:
    """A body that vLLM's request model does not take, in the words of vLLM's own handler."""
    located = [{**detail, "loc": ("body", *detail["loc"])} for detail in error.errors()]
    response = await validation_exception_handler(request, RequestValidationError(located))
    return EngineRefusal(json.loads(bytes(response.body)), response.status_code)


def refusal(response: ErrorResponse) -> SteerError:
    """An error that a handler returned: the client's fault as it is, the engine's as 502."""
    if response.error.code >= 500 and response.error.code != 503:
        return EngineError(response.error.message)
    return EngineRefusal(response.model_dump(), response.error.code)


def failure(error: Exception) -> SteerError:
    """An exception that a handler raised."""
    if isinstance(error, SteerError):
        return error
    if isinstance(error, EngineDeadError):
        return EngineError("The engine is dead.")
    return refusal(create_error_response(error))
