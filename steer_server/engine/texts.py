"""The model's own tokenizer and chat template, as vLLM's handlers apply them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.requests import Request
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.tokenize.protocol import TokenizeChatRequest

from steer_server.engine.base import TokenisedText
from steer_server.engine.translate import failure, invalid_body, refusal

CHAT_FIELDS = ("model", "messages", "chat_template", "chat_template_kwargs")
"""Of a chat request: what its prompt is made of."""


_Result = TypeVar("_Result")


class ModelTokenizer:
    """Loaded when first used; used by one thread at a time, which it needs."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self._tokenizer: Any = None
        self._turn = asyncio.Lock()

    async def use(self, work: Callable[..., _Result], *arguments: Any) -> _Result:
        """What `work(tokenizer, *arguments)` returns, called in a thread."""
        async with self._turn:
            return await asyncio.to_thread(self._work, work, arguments)

    def _work(self, work: Callable[..., _Result], arguments: Sequence[Any]) -> _Result:
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            # Read as training reads it: vLLM's own may have other defaults.
            config = self.client.model_config
            self._tokenizer = AutoTokenizer.from_pretrained(
                config.tokenizer,
                revision=config.tokenizer_revision,
                trust_remote_code=config.trust_remote_code,
            )
        return work(self._tokenizer, *arguments)


class VllmTexts:
    """The part of the Engine protocol that has to do with tokens."""

    def __init__(self, tokenizer: ModelTokenizer, tokenization: Any) -> None:
        """Args: tokenization: vLLM's `ServingTokenization`."""
        self.tokenizer, self.tokenization = tokenizer, tokenization

    async def tokenise_chat(self, body: Mapping[str, Any], request: Request) -> list[int]:
        wanted = {field: body[field] for field in CHAT_FIELDS if field in body}
        try:
            parsed = TokenizeChatRequest.model_validate({"messages": None, **wanted})
        except ValidationError as error:
            raise await invalid_body(error, request) from error
        try:
            result = await self.tokenization.create_tokenize(parsed, request)
        except Exception as error:
            raise failure(error) from error
        if isinstance(result, ErrorResponse):
            raise refusal(result)
        return list(result.tokens)

    async def tokenise(self, texts: Sequence[str]) -> list[TokenisedText]:
        return await self.tokenizer.use(_tokenise, list(texts))


def _tokenise(tokenizer: Any, texts: list[str]) -> list[TokenisedText]:
    if not texts:
        return []
    read = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    return [
        TokenisedText(tuple(ids), tuple(end for _, end in offsets))
        for ids, offsets in zip(read["input_ids"], read["offset_mapping"], strict=True)
    ]
