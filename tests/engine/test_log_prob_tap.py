"""The tap's part in the worker and in the scheduler, on stand-ins for vLLM's model runner."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from steer_server.engine.log_prob_tap import (
    ROWS_AT_ONCE,
    first_of,
    limit_cached_prefixes,
    log_probs,
    read_step,
    reading_id,
)

HIDDEN, VOCABULARY = 16, 50


class Model:
    """Whose hidden states are those of its tokens and positions alone. It counts the rows of its LM head."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.states = torch.randn(VOCABULARY, HIDDEN, generator=generator)
        self.head = torch.randn(HIDDEN, VOCABULARY, generator=generator)
        self.num_rows: list[int] = []

    def hidden(self, tokens: list[int], begin: int, end: int) -> torch.Tensor:
        return torch.stack([self.states[tokens[i]] * (1 + i / 10) for i in range(begin, end)])

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        self.num_rows.append(len(hidden))
        return hidden @ self.head

    def expected(self, tokens: list[int], first: int) -> torch.Tensor:
        rows = self.hidden(tokens, 0, len(tokens)).double() @ self.head.double()
        found = rows.log_softmax(-1)
        return torch.stack([found[i - 1, tokens[i]] for i in range(first, len(tokens))])


def text(length: int) -> list[int]:
    return [(7 * i + length) % VOCABULARY for i in range(length)]


class Runner:
    """One step after the other, of chosen pieces of chosen requests."""

    def __init__(self) -> None:
        self.model = Model()
        self.requests: dict[str, Any] = {}
        self.execute_model_state: Any = None

    def add(self, request_id: str, tokens: list[int]) -> None:
        self.requests[request_id] = SimpleNamespace(
            prompt_token_ids=tokens, num_prompt_tokens=len(tokens), num_computed_tokens=0
        )

    def step(self, *pieces: tuple[str, int, int]) -> dict[str, torch.Tensor]:
        """Reads tokens begin..end of each request."""
        hidden = [torch.zeros(0, HIDDEN)]
        for request_id, begin, end in pieces:
            request = self.requests[request_id]
            request.num_computed_tokens = begin
            # What a request generates is read too.
            tokens = request.prompt_token_ids + [1] * (end - request.num_prompt_tokens)
            hidden.append(self.model.hidden(tokens, begin, end))
        ends = np.cumsum([0, *(end - begin for _, begin, end in pieces)])
        self.input_batch = SimpleNamespace(req_ids=[request_id for request_id, *_ in pieces])
        self.query_start_loc = SimpleNamespace(np=np.append(ends, [ends[-1]] * 3))
        self.execute_model_state = SimpleNamespace(hidden_states=torch.cat([*hidden, torch.zeros(5, HIDDEN)]))
        return read_step(self)


def test_ids_say_where_reading_begins() -> None:
    assert first_of(reading_id(17)) == 17 and first_of(f"{reading_id(1)}-3f2a91bc") == 1
    assert reading_id(3) != reading_id(3)


@pytest.mark.parametrize(
    "request_id",
    ["chatcmpl-17", "steer-score-17", "steer-read-x", f"{reading_id(5)}_0-3f2a91bc", f"cmpl-{reading_id(5)}"],
    ids=["chat", "another tap", "no number", "a response", "a completion"],
)
def test_an_id_that_a_client_can_give_is_no_text_to_read(request_id: str) -> None:
    """vLLM takes the id of a response from its client, and writes `_0` and a suffix behind it."""
    assert first_of(request_id) is None


def test_texts_are_read_from_the_first_wanted_token_amid_other_requests() -> None:
    runner = Runner()
    long, short = reading_id(9), reading_id(1)
    runner.add(long, text(30))
    runner.add(short, text(5))
    runner.add("chatcmpl-1", text(12))
    runner.add("cmpl-2", text(8))
    found = runner.step(("chatcmpl-1", 11, 12), (long, 0, 30), ("cmpl-2", 0, 8), (short, 0, 5))
    assert found.keys() == {long, short}
    for request_id, first in ((long, 9), (short, 1)):
        expected = runner.model.expected(runner.requests[request_id].prompt_token_ids, first)
        torch.testing.assert_close(found[request_id][:, 0].double(), expected, rtol=1e-5, atol=1e-5)
    assert sum(runner.model.num_rows) == (30 - 9) + (5 - 1)


def test_what_is_cached_before_the_first_is_not_missed() -> None:
    runner = Runner()
    request_id = reading_id(20)
    runner.add(request_id, text(30))
    found = runner.step((request_id, 16, 30))[request_id]
    expected = runner.model.expected(text(30), 20)
    torch.testing.assert_close(found[:, 0].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cuts", [[10], [11, 12], [29], [5, 6, 7, 29], list(range(1, 30))])
def test_a_text_read_in_parts_is_given_whole_with_its_last(cuts: list[int]) -> None:
    runner = Runner()
    request_id = reading_id(11)
    runner.add(request_id, text(30))
    for begin, end in zip([0, *cuts], cuts, strict=False):
        assert runner.step((request_id, begin, end)) == {}
    found = runner.step((request_id, cuts[-1], 30))[request_id]
    expected = runner.model.expected(text(30), 11)
    torch.testing.assert_close(found[:, 0].double(), expected, rtol=1e-5, atol=1e-5)
    assert sum(runner.model.num_rows) == 30 - 11


def test_a_text_that_had_to_begin_again_is_read_again() -> None:
    """As after a preemption, with another cut."""
    runner = Runner()
    request_id = reading_id(4)
    runner.add(request_id, text(30))
    assert runner.step((request_id, 0, 22)) == {}
    assert runner.step((request_id, 0, 9)) == {}
    found = runner.step((request_id, 9, 30))[request_id]
    expected = runner.model.expected(text(30), 4)
    torch.testing.assert_close(found[:, 0].double(), expected, rtol=1e-5, atol=1e-5)


def test_what_was_not_read_is_no_number() -> None:
    runner = Runner()
    request_id = reading_id(4)
    runner.add(request_id, text(30))
    found = runner.step((request_id, 16, 30))[request_id][:, 0]
    assert found[: 17 - 4].isnan().all() and found[17 - 4 :].isfinite().all()


def test_steps_without_texts_or_states_are_left_alone() -> None:
    runner = Runner()
    runner.add("chatcmpl-1", text(12))
    assert runner.step(("chatcmpl-1", 0, 12)) == {} and not runner.model.num_rows
    runner.execute_model_state = None
    assert read_step(runner) == {}


def test_logits_of_many_rows_never_exist_at_once() -> None:
    model = Model()
    tokens = text(3 * ROWS_AT_ONCE + 5)
    hidden = model.hidden(tokens, 0, len(tokens))
    found = log_probs(model, hidden, range(len(tokens) - 1), tokens[1:])
    assert found is not None and max(model.num_rows) == ROWS_AT_ONCE
    torch.testing.assert_close(found.double(), model.expected(tokens, 1), rtol=1e-5, atol=1e-5)


def test_logits_of_lower_precision_are_summed_in_float32() -> None:
    model = Model()
    tokens = text(20)
    hidden = model.hidden(tokens, 0, 20)
    model.compute_logits = lambda hidden: (hidden @ model.head).bfloat16()  # type: ignore[method-assign]
    found = log_probs(model, hidden, range(19), tokens[1:])
    exact = (hidden @ model.head).bfloat16().double().log_softmax(-1)
    assert found is not None and found.dtype == torch.float32
    expected = torch.stack([exact[i, tokens[i + 1]] for i in range(19)])
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_rank_without_logits_takes_part_and_says_nothing() -> None:
    runner = Runner()
    request_id = reading_id(1)
    runner.add(request_id, text(4))
    calls: list[int] = []
    runner.model.compute_logits = lambda hidden: calls.append(len(hidden))  # type: ignore[assignment]
    assert runner.step((request_id, 0, 4)) == {} and calls == [3]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_schedulers_cache_gives_what_comes_before_the_first_state_alone() -> None:
    """vLLM's own cache, which has all of the text. Token i is read from the state of token i - 1."""
    from vllm import SamplingParams
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.request import Request

    limit_cached_prefixes()
    limit_cached_prefixes()
    block, length = 16, 100
    init_none_hash(sha256)
    layer = FullAttentionSpec(block_size=block, num_kv_heads=1, head_size=8, dtype=torch.float32)
    groups = [KVCacheGroupSpec(["layer"], layer)]
    config = KVCacheConfig(num_blocks=64, kv_cache_tensors=[], kv_cache_groups=groups)
    cache = KVCacheManager(config, max_model_len=512, scheduler_block_size=block, hash_block_size=block)

    def request(request_id: str) -> Any:
        return Request(
            request_id,
            list(range(length)),
            SamplingParams(max_tokens=1),
            None,
            block_hasher=get_request_block_hasher(block, sha256),
        )

    def num_cached(request_id: str) -> int:
        return int(cache.get_computed_blocks(request(request_id))[1])

    assert num_cached("chatcmpl-1") == 0
    cache.allocate_slots(request("chatcmpl-1"), length)
    assert num_cached("chatcmpl-2") == 96
    for first in range(1, length):
        assert num_cached(reading_id(first)) == (first - 1) // block * block
