"""vLLM's errors as ours."""

from __future__ import annotations

from http import HTTPStatus
from types import SimpleNamespace

import pytest
from starlette.requests import Request

from steer_server.errors import CapacityError, EngineError, EngineRefusal
from tests.support.vllm_warnings import IMPORTS_VLLM

pytestmark = IMPORTS_VLLM


def test_every_error_of_vllm_becomes_one_of_ours() -> None:
    """A client's fault is 4xx, a full queue 503 with Retry-After, all else 502; nothing is a bare 500."""
    import vllm.exceptions
    from vllm.v1.engine.exceptions import EngineDeadError

    from steer_server.engine.translate import failure

    def make(cls: type[Exception]) -> Exception:
        for arguments in ((), ("told",), ("told", HTTPStatus.SERVICE_UNAVAILABLE), (2, 1), ("a", "b")):
            try:
                return cls(*arguments)
            except TypeError:
                continue
        raise AssertionError(f"cannot make {cls}")

    classes = [
        cls
        for cls in vars(vllm.exceptions).values()
        if isinstance(cls, type) and issubclass(cls, vllm.exceptions.VLLMError)
    ]
    assert len(classes) > 8
    for cls in [*classes, ValueError, TypeError, OverflowError, RuntimeError]:
        ours = failure(make(cls))
        assert isinstance(ours, EngineRefusal | EngineError), cls
        assert ours.http_status in (400, 404, 422, 429, 501, 502, 503, 409), (cls, ours.http_status)
        if ours.http_status in (409, 429, 503):
            assert "Retry-After" in ours.headers
    assert isinstance(failure(EngineDeadError()), EngineError)
    assert isinstance(failure(CapacityError("full")), CapacityError)


async def test_a_body_that_vllm_does_not_take_names_the_field() -> None:
    from pydantic import ValidationError
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    from steer_server.engine.translate import invalid_body

    with pytest.raises(ValidationError) as caught:
        ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": "x"}], "n": "three"})
    app = SimpleNamespace(state=SimpleNamespace(args=SimpleNamespace(log_error_stack=False)))
    scope = {"type": "http", "method": "POST", "headers": [], "path": "/", "query_string": b"", "app": app}
    request = Request(scope)
    error = await invalid_body(caught.value, request)
    assert error.http_status == 400 and "n" in str(error)
