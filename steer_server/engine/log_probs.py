"""Log-probabilities by vLLM: each text is a prefill under its plan, and the tap reads it on its way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from vllm import SamplingParams
from vllm.inputs import tokens_input
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind

from steer_server.engine.base import ReadText
from steer_server.engine.log_prob_tap import reading_id
from steer_server.engine.translate import failure
from steer_server.errors import EngineError
from steer_server.observing.spans import trace_headers
from steer_server.together import together


class VllmLogProbs:
    """The part of the Engine protocol that reads texts under plans."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def read(
        self, texts: Sequence[ReadText], lora_request: LoRARequest | None, cache_salt: str | None
    ) -> list[list[float]]:
        """Raises: SteerError."""
        distinct = list(dict.fromkeys(texts))
        found = await together(self._read(text, lora_request, cache_salt) for text in distinct)
        by_text = dict(zip(distinct, found, strict=True))
        return [by_text[text] for text in texts]

    async def _read(
        self, text: ReadText, lora_request: LoRARequest | None, cache_salt: str | None
    ) -> list[float]:
        prompt = tokens_input(prompt_token_ids=list(text.token_ids), cache_salt=cache_salt)
        try:
            outputs = self.client.generate(
                prompt,
                self._sampling(text),
                reading_id(text.first),
                lora_request=lora_request,
                trace_headers=trace_headers() or None,
            )
            found = [output.prompt_token_id_logprobs async for output in outputs][-1]
        except Exception as error:
            raise failure(error) from error
        if found is None or not np.isfinite(found).all():
            raise EngineError("The engine read a text and gave no log-probability for it.")
        return [float(log_prob) for log_prob in found[:, 0]]

    def _sampling(self, text: ReadText) -> SamplingParams:
        of_second_runner: dict[str, Any] = {}
        if self.client.vllm_config.use_v2_model_runner:
            of_second_runner = {
                "prompt_logprob_token_ids": np.array(text.token_ids[text.first :])[:, None],
                "prompt_logprob_start": text.first - 1,
            }
        return SamplingParams(
            max_tokens=1,
            temperature=0.0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_reading_prefix_cache=False,
            **of_second_runner,
        )
