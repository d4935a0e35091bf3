"""The log-probability tap: how likely the model finds the tokens of a given text, in the steps that read it.

    l_i = log softmax(W h_(i-1))[y_i]      nats, float32, for first <= i < number of tokens

h_i is token i's hidden state after the final norm, W the LM head. vLLM's own `prompt_logprobs` gives the same
and reads nothing from the prefix cache, applies W to the whole prompt, and describes every token by objects.
Here W is applied where a token is wanted alone, and what comes before may be cached.

A request is such a text when its id says so, with `first` in it; what the engine generates behind it means
nothing. A client of `/v1/responses` names its request itself, but vLLM writes `_0` behind that, so no client
makes an id of this form. Token i needs h_(i-1) of this very request: what the cache has from there on is
computed again. A text that is read in several steps gathers its readings on the runner's own record of the
request, and they end with it.

vLLM's second model runner can do this itself (`prompt_logprob_token_ids`, see `VllmLogProbs`); the first,
which is all that CPU has, is tapped.

Not covered: a KV connector that brings what is behind `first`; tokens that were not read here are NaN.

Axes: T tokens of a step, H hidden features, N wanted tokens of a step, V vocabulary.
"""

from __future__ import annotations

import functools
import math
import re
import uuid
from collections.abc import Sequence
from typing import Any

import torch

from steer_server.engine.taps import tap

READING_ID = re.compile(r"steer-read-(\d+)-[0-9a-f]{32}(?:-[0-9a-f]{8})?")
"""As `reading_id` makes them, and as vLLM's engine has them, with a suffix of its own."""

ROWS_AT_ONCE = 128
"""Logits in float32 that exist at one time; of the built-in model 25 MB."""


def reading_id(first: int) -> str:
    """A new request id of a text whose tokens from `first` on are wanted."""
    return f"steer-read-{first}-{uuid.uuid4().hex}"


def first_of(request_id: str) -> int | None:
    """None: a request that is not read so."""
    found = READING_ID.fullmatch(request_id)
    return int(found[1]) if found else None


def tap_runner() -> None:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    tap(GPUModelRunner, "log_probs", read_step)


@torch.inference_mode()
def read_step(runner: Any) -> dict[str, torch.Tensor]:
    """Log-probabilities `[tokens wanted, 1]` by request id, of the texts whose end the present step reads."""
    state = runner.execute_model_state
    if state is None or state.hidden_states is None:
        return {}
    starts_N = runner.query_start_loc.np
    rows: list[int] = []
    targets: list[int] = []
    places, ended = [], {}
    for n, request_id in enumerate(runner.input_batch.req_ids):
        first = first_of(request_id)
        if first is None:
            continue
        request, row = runner.requests[request_id], int(starts_N[n])
        num_before, num_tokens = request.num_computed_tokens, request.num_prompt_tokens
        num_read = num_before + int(starts_N[n + 1]) - row
        if not hasattr(request, "steer_log_probs"):
            request.steer_log_probs = torch.full((num_tokens - first, 1), math.nan)
        # The state of token i - 1 says how likely token i is; the request's first row is token num_before's.
        begin, end = max(first, num_before + 1), min(num_tokens, num_read + 1)
        if begin < end:
            rows += range(row + begin - 1 - num_before, row + end - 1 - num_before)
            targets += request.prompt_token_ids[begin:end]
            places.append(request.steer_log_probs[begin - first : end - first, 0])
        if num_read >= num_tokens:
            ended[request_id] = request.steer_log_probs
    if not rows:
        return ended
    found_N = log_probs(runner.model, state.hidden_states, rows, targets)
    if found_N is None:
        return {}
    for place in places:
        place.copy_(found_N[: len(place)])
        found_N = found_N[len(place) :]
    return ended


def log_probs(
    model: Any, hidden_T_H: torch.Tensor, rows: Sequence[int], targets: Sequence[int]
) -> torch.Tensor | None:
    """log softmax(W hidden[rows])[targets], float32 `[N]` on the CPU; None on a tensor-parallel rank that
    holds no logits, which must take part all the same."""
    rows_N, targets_N = (torch.tensor(one, device=hidden_T_H.device) for one in (rows, targets))
    found = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        logits_N_V = model.compute_logits(hidden_T_H[rows_N[part]])
        if logits_N_V is not None:
            logits_N_V = logits_N_V.float()
            found.append(logits_N_V.gather(1, targets_N[part, None])[:, 0] - logits_N_V.logsumexp(1))
    # On a GPU this waits for the step; only steps that read a text do.
    return torch.cat(found).cpu() if found else None


def limit_cached_prefixes() -> None:
    """Has vLLM's scheduler take from the prefix cache only what comes before the first state that a text's
    tokens are read from. It asks for the cache's part of the request that ends there."""
    from vllm.v1.core.kv_cache_manager import KVCacheManager

    if hasattr(KVCacheManager, "_steer_limits_prefixes"):
        return
    KVCacheManager._steer_limits_prefixes = True
    original = KVCacheManager.get_computed_blocks

    @functools.wraps(original)
    def get_computed_blocks(self: Any, request: Any) -> Any:
        first = first_of(request.request_id)
        return original(self, request if first is None else _Beginning(request, first))

    KVCacheManager.get_computed_blocks = get_computed_blocks


class _Beginning:
    """A request as if it had so many tokens. The last is never taken from the cache."""

    def __init__(self, request: Any, num_tokens: int) -> None:
        self._request = request
        self.num_tokens = num_tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)
