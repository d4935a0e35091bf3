"""Texts and chats as tokens, without a running model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from steer_server.errors import EngineRefusal
from tests.support.tiny_model import tiny_model_with_weights
from tests.support.vllm_warnings import IMPORTS_VLLM

pytestmark = IMPORTS_VLLM

APP = SimpleNamespace(state=SimpleNamespace(args=SimpleNamespace(log_error_stack=False)))
SCOPE = {"type": "http", "method": "POST", "headers": [], "path": "/", "query_string": b"", "app": APP}


class Tokenization:
    """Stands for vLLM's `ServingTokenization`, which needs an engine."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def create_tokenize(self, request: Any, raw_request: Request) -> Any:
        from vllm.entrypoints.serve.engine.protocol import ErrorInfo, ErrorResponse
        from vllm.entrypoints.serve.tokenize.protocol import TokenizeResponse

        self.asked.append(request)
        if request.model == "gpt-5":
            return ErrorResponse(error=ErrorInfo(message="no such model", type="NotFoundError", code=404))
        return TokenizeResponse(tokens=[1, 2, 3], count=3, max_model_len=512)


async def test_a_texts_tokens_say_where_they_end(tmp_path: Path) -> None:
    from steer_server.engine.texts import ModelTokenizer, VllmTexts

    config = SimpleNamespace(
        tokenizer=str(tiny_model_with_weights(tmp_path / "tiny")),
        tokenizer_revision=None,
        trust_remote_code=False,
    )
    tokenizer = ModelTokenizer(SimpleNamespace(model_config=config))
    texts = VllmTexts(tokenizer, Tokenization())
    first, second, empty = await texts.tokenise(["a b", "c", ""])
    assert first.ends == (1, 2, 3) and len(first.token_ids) == 3
    assert second.ends == (1,) and empty.token_ids == empty.ends == ()
    assert await texts.tokenise([]) == []


async def test_a_chats_prompt_is_made_of_the_fields_that_it_depends_on() -> None:
    from steer_server.engine.texts import VllmTexts

    tokenization = Tokenization()
    texts = VllmTexts(SimpleNamespace(), tokenization)  # type: ignore[arg-type]
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5, "stop": ["."]}
    assert await texts.tokenise_chat(body, Request(SCOPE)) == [1, 2, 3]
    (asked,) = tokenization.asked
    assert asked.model == "m" and asked.add_generation_prompt and not asked.model_extra
    with pytest.raises(EngineRefusal) as caught:
        await texts.tokenise_chat({**body, "model": "gpt-5"}, Request(SCOPE))
    assert caught.value.http_status == 404
    with pytest.raises(EngineRefusal) as caught:
        await texts.tokenise_chat({"model": "m"}, Request(SCOPE))
    assert caught.value.http_status in (400, 422)
