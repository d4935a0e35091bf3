"""Scoring by vLLM: each text is a prefill under the base model, and the reward tap scores it on its way."""

from __future__ import annotations

import itertools
import logging
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

logger = logging.getLogger("steer_server.engine")


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
        what = f"load reward head {head.title}"
        await self._on_workers(what, "steer_load_head", head_id, str(head.folder))
        self._id_of[head.digest] = head_id

    async def drop_head(self, digest: str) -> None:
        if (head_id := self._id_of.pop(digest, None)) is not None:
            await self._on_workers("drop a reward head", "steer_drop_head", head_id)

    async def score(self, texts: Sequence[ScoringText]) -> list[ScoredText]:
        read = await self._tokenizer.use(self._read, texts)
        prompts = [(ids, text.cache_salt) for (ids, _), text in zip(read, texts, strict=True)]
        distinct = list(dict.fromkeys(prompts))
        raw = dict(zip(distinct, await together(self._score(*prompt) for prompt in distinct), strict=True))
        return [
            ScoredText(raw[prompt], len(ids), is_cut)
            for prompt, (ids, is_cut) in zip(prompts, read, strict=True)
        ]

    def _read(self, tokenizer: Any, texts: Sequence[ScoringText]) -> list[tuple[TokenIds, bool]]:
        """Token ids of each text, and whether its beginning was cut off. Blocking."""
        # Formats differ in how much of a text they read, and a long one takes a second to split into tokens.
        whole: dict[tuple[int, str, str], TokenIds] = {}
        read = []
        for text in texts:
            key = id(text.messages), text.answer, text.text_format.layout
            if key not in whole:
                whole[key] = _whole(tokenizer, text)
            read.append(self._cut(whole[key], text))
        return read

    def _cut(self, whole: TokenIds, text: ScoringText) -> tuple[TokenIds, bool]:
        ids = whole[-text.text_format.max_tokens :]
        longest = self.client.model_config.max_model_len - 1
        if len(ids) > longest:
            raise RequestError(
                f"The text has {len(ids)} tokens; this server scores at most {longest}.",
                param="messages",
                code="context_length_exceeded",
            )
        return ids, len(ids) < len(whole)

    async def _score(self, ids: TokenIds, cache_salt: str | None) -> dict[str, float]:
        sampling = SamplingParams(
            max_tokens=1, temperature=0.0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
        )
        prompt = tokens_input(prompt_token_ids=list(ids), cache_salt=cache_salt)
        try:
            outputs = self.client.generate(
                prompt, sampling, scoring_id(), trace_headers=trace_headers() or None
            )
            found = [output.prompt_token_id_logprobs async for output in outputs][-1]
        except Exception as error:
            raise failure(error) from error
        if found is None:
            raise EngineError("The engine read a text and gave no score for it.")
        return self.by_digest(found)

    def by_digest(self, pairs: Any) -> dict[str, float]:
        """Raw scores by digest, of the versions that are loaded now. Args: pairs: (head's id, raw)."""
        raw = {int(head_id): float(score) for head_id, score in pairs}
        return {digest: raw[head_id] for digest, head_id in self._id_of.items() if head_id in raw}

    async def _on_workers(self, what: str, method: str, *arguments: Any) -> None:
        try:
            await call_workers(self.client, method, *arguments)
        except EngineDeadError as error:
            raise EngineError("The engine is dead.") from error
        except Exception as error:
            # The workers' words name the folder.
            logger.exception("could not %s", what)
            raise EngineError(f"The engine could not {what}; its log says why.") from error


def _whole(tokenizer: Any, text: ScoringText) -> TokenIds:
    from jinja2 import TemplateError

    try:
        return tuple(text.text_format.all_token_ids(tokenizer, text.messages, text.answer))
    except (TemplateError, ValueError) as error:
        raise RequestError(
            f"The model's chat template refuses these messages: {error}",
            param="messages",
            code="invalid_messages",
        ) from error
