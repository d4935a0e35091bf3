"""The reward tap: every loaded head's score, in the steps that sample for a request that asks.

    raw[n, k] = w_k · h_n + b_k      float32; h_n: request n's last hidden state, after the model's final norm

h_n is the row that the step takes logits from: the last token that was read, after all chunks of a prefill
and behind any cached prefix. How scores leave the worker is in `taps.py`; nothing is stored. Two kinds of
requests ask, by ids that no client can give its own, as the log-probability tap says:

- A text to score, of one step. A head was trained on the state *at* the token that ends the turn, which
  generation samples last and never reads, and under the base model; so this is a prefill of the whole text.
  What of it is in the prefix cache is not computed again.
- An answer that is scored while it is generated. Each of its steps is scored, since none knows that it is the
  last; the last one's h_n is the row that the answer's last token was sampled from: one position before that
  token, and under the request's own plan. It costs no forward pass, and is another quantity.

Not covered: of answers, speculative decoding. On a GPU a step that is scored waits for the result, so that of
answers every one does.

Axes: N requests, K heads, H hidden features, T tokens of a step.
"""

from __future__ import annotations

import functools
import re
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steer_server.catalogue.reward_head import HEAD_WEIGHTS
from steer_server.engine.taps import tap

SCORING_ID = re.compile(r"steer-score-[0-9a-f]{32}(?:-[0-9a-f]{8})?")
"""As `scoring_id` makes them, and as vLLM's engine has them, with a suffix of its own."""

ANSWER_ID = re.compile(r"(?:(\d+)_)?(steer-answer-[0-9a-f]{32})(?:-[0-9a-f]{8})?")
"""The same of `answer_id`. In front, where several choices were asked for, the choice."""

LastRows = tuple[Sequence[str], torch.Tensor, np.ndarray, np.ndarray]
"""Of a step: request ids, `hidden_T_H`, each request's last row in it, and whether its text goes on."""


def scoring_id() -> str:
    """A new request id of a text to score."""
    return f"steer-score-{uuid.uuid4().hex}"


def answer_id() -> str:
    """A new request id of an answer that is scored while it is generated."""
    return f"steer-answer-{uuid.uuid4().hex}"


def is_scored(request_id: str) -> bool:
    """Whether the tap scores the request."""
    return bool(SCORING_ID.fullmatch(request_id) or ANSWER_ID.fullmatch(request_id))


class HeadTable:
    """Loaded heads, side by side in one matrix. An id stands for one version of a head, and is given once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._heads: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._stack()

    def __len__(self) -> int:
        return len(self._heads)

    def put(self, head_id: int, weight_H: torch.Tensor, bias: torch.Tensor) -> None:
        self._heads[head_id] = weight_H.float().to(self.device), bias.reshape(()).float().to(self.device)
        self._stack()

    def drop(self, head_id: int) -> None:
        """A head that is not loaded is no error."""
        self._heads.pop(head_id, None)
        self._stack()

    def scores(self, hidden_N_H: torch.Tensor) -> torch.Tensor:
        """Pairs (head id, raw), float64 `[N, K, 2]`."""
        if not self._heads:
            return torch.zeros(len(hidden_N_H), 0, 2, dtype=torch.float64, device=self.device)
        raw_N_K = torch.addmm(self._bias_K, hidden_N_H.float(), self._weight_H_K).double()
        return torch.stack([self._ids_K.expand_as(raw_N_K), raw_N_K], dim=-1)

    def _stack(self) -> None:
        self._ids_K = torch.tensor(list(self._heads), dtype=torch.float64, device=self.device)
        if self._heads:
            weights, biases = zip(*self._heads.values(), strict=True)
            self._weight_H_K = torch.stack(weights, dim=1).contiguous()
            self._bias_K = torch.stack(biases)


class RewardTapExtension:
    """Methods that the API process calls on every worker with `collective_rpc`, always between two steps."""

    model_runner: Any

    def steer_load_head(self, head_id: int, folder: str) -> None:
        """Loads the head in an adapter folder under an id that was not used before."""
        from safetensors.torch import load_file

        tensors = load_file(Path(folder) / HEAD_WEIGHTS)
        runner = self.model_runner
        if not hasattr(runner, "steer_heads"):
            runner.steer_heads = HeadTable(torch.device(runner.device))
        runner.steer_heads.put(head_id, tensors["weight"], tensors["bias"])

    def steer_drop_head(self, head_id: int) -> None:
        if hasattr(self.model_runner, "steer_heads"):
            self.model_runner.steer_heads.drop(head_id)


def tap_runners(*, is_cpu: bool) -> None:
    """Puts the tap into vLLM's model runners, once: the first, and the second, which CPU does not have."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    tap_runner(GPUModelRunner, last_rows)
    if not is_cpu:
        from vllm.v1.worker.gpu.model_runner import GPUModelRunner as SecondModelRunner

        tap_runner(SecondModelRunner, last_rows_of_second)


def last_rows(runner: Any, state: Any) -> LastRows:
    """Of the first model runner, between its forward pass and its sampling."""
    ids = runner.input_batch.req_ids
    ends = runner.query_start_loc.np[1 : len(ids) + 1] - 1
    return ids, state.hidden_states, ends, runner.discard_request_mask.np[: len(ids)]


def last_rows_of_second(runner: Any, state: Any) -> LastRows:
    batch = state.input_batch
    num = len(batch.req_ids)
    ends = batch.query_start_loc_np[1 : num + 1] - 1
    read = batch.num_computed_prefill_tokens_np[:num] + batch.num_scheduled_tokens[:num]
    return batch.req_ids, state.hidden_states, ends, read < batch.prefill_len_np[:num]


@torch.inference_mode()
def score_step(runner: Any, rows_of: Callable[[Any, Any], LastRows]) -> dict[str, torch.Tensor]:
    """Scores `[K, 2]` by request id, of those that ask and that the present step samples for."""
    state, table = runner.execute_model_state, getattr(runner, "steer_heads", None)
    if state is None or table is None or state.hidden_states is None:
        return {}
    ids, hidden_T_H, ends, goes_on = rows_of(runner, state)
    found = [n for n, one in enumerate(ids) if not goes_on[n] and is_scored(one)]
    if not found:
        return {}
    rows = torch.as_tensor(ends[found], dtype=torch.long, device=hidden_T_H.device)
    # On a GPU this waits for the step; only steps with such a request do.
    scores_N_K_2 = table.scores(hidden_T_H[rows]).cpu()
    return {ids[n]: scores for n, scores in zip(found, scores_N_K_2, strict=True)}


def tap_runner(runner_class: Any, rows_of: Callable[[Any, Any], LastRows]) -> None:
    tap(runner_class, "rewards", functools.partial(score_step, rows_of=rows_of))
