"""Scoring by vLLM: each text is a prefill under the base model, and the reward tap scores it on its way."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from vllm import SamplingParams
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.exceptions import EngineDeadError

from steer_server.catalogue.snapshot import LoadedRewardHead
from steer_server.engine.base import ScoredText, ScoringText
from steer_server.engine.calls import call_workers
from steer_server.engine.reward_tap import scoring_id
from steer_server.engine.texts import ModelTokenizer
from steer_server.engine.translate import failure
from steer_server.errors import EngineError, RequestError
from steer_server.observing.spans import trace_headers
from steer_server.together import together

TokenIds = tuple[int, ...]


class VllmScorer:
    """The part of the Engine protocol that has to do with reward heads."""

    def __init__(self, client: Any, tokenizer: ModelTokenizer) -> None:
        self.client = client
        self._tokenizer = tokenizer
        self._next_id = itertools.count(1)
        self._id_of: dict[str, int] = {}
        """Of each loaded version, by digest. Never used twice: scores name the version by it."""

    async def load_head(self, head: LoadedRewardHead) -> None:
        head_id = next(self._next_id)
        await self._on_workers("steer_load_head", head_id, str(head.folder))
        self._id_of[head.digest] = head_id

    async def drop_head(self, digest: str) -> None:
        if (head_id := self._id_of.pop(digest, None)) is not None:
            await self._on_workers("steer_drop_head", head_id)

    async def score(self, texts: Sequence[ScoringText]) -> list[ScoredText]:
        read = await self._tokenizer.use(self._read, texts)
        distinct = list(dict.fromkeys(ids for ids, _ in read))
        raw = dict(zip(distinct, await together(self._score(ids) for ids in distinct), strict=True))
        return [ScoredText(raw[ids], len(ids), is_cut) for ids, is_cut in read]

    def _read(self, tokenizer: Any, texts: Sequence[ScoringText]) -> list[tuple[TokenIds, bool]]:
        """Token ids of each text, and whether its beginning was cut off. Blocking."""
        return [self._ids(tokenizer, text) for text in texts]

    def _ids(self, tokenizer: Any, text: ScoringText) -> tuple[TokenIds, bool]:
        from jinja2 import TemplateError

        try:
            whole = text.text_format.all_token_ids(tokenizer, text.messages, text.answer)
        except (TemplateError, ValueError) as error:
            raise RequestError(
                f"The model's chat template refuses these messages: {error}",
                param="messages",
                code="invalid_messages",
            ) from error
        ids = tuple(whole[-text.text_format.max_tokens :])
        longest = self.client.model_config.max_model_len - 1
        if len(ids) > longest:
            raise RequestError(
                f"The text has {len(ids)} tokens; this server scores at most {longest}.",
                param="messages",
                code="context_length_exceeded",
            )
        return ids, len(ids) < len(whole)

    async def _score(self, ids: TokenIds) -> dict[str, float]:
        sampling = SamplingParams(
            max_tokens=1, temperature=0.0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
        )
        prompt = tokens_input(prompt_token_ids=list(ids))
        try:
            outputs = self.client.generate(
                prompt, sampling, scoring_id(), trace_headers=trace_headers() or None
            )
            found = [output.prompt_token_id_logprobs async for output in outputs][-1]
        except Exception as error:
            raise failure(error) from error
        if found is None:
            raise EngineError("The engine read a text and gave no score for it.")
        raw = {int(head_id): float(score) for head_id, score in found}
        return {digest: raw[head_id] for digest, head_id in self._id_of.items() if head_id in raw}

    async def _on_workers(self, method: str, *arguments: Any) -> None:
        try:
            await call_workers(self.client, method, *arguments)
        except EngineDeadError as error:
            raise EngineError("The engine is dead.") from error
        except Exception as error:
            raise EngineError(f"The reward head could not be changed: {error}") from error
