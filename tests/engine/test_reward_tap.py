"""The tap's part in the worker, on stand-ins for vLLM's model runners."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from steer_server.catalogue.base_model import BaseModel
from steer_server.engine.reward_tap import (
    HeadTable,
    RewardTapExtension,
    answer_id,
    last_rows,
    last_rows_of_second,
    score_step,
    scoring_id,
    tap_runner,
)
from tests.support.adapters import TINY, tiny_base_model
from tests.support.heads import loaded_head

HIDDEN = 32
TEXT_A, TEXT_B, TEXT_C = scoring_id(), scoring_id(), f"{scoring_id()}-3f2a91bc"
ANSWER = answer_id()


def table(*head_ids: int, dtype: torch.dtype = torch.float32) -> tuple[HeadTable, dict[int, Any]]:
    heads = HeadTable(torch.device("cpu"))
    weights = {}
    for head_id in head_ids:
        generator = torch.Generator().manual_seed(head_id)
        weights[head_id] = torch.randn(HIDDEN, generator=generator), torch.randn(1, generator=generator)
        heads.put(head_id, *weights[head_id])
    return heads, weights


def first_runner(ids: list[str], lengths: list[int], goes_on: list[bool], heads: HeadTable) -> Any:
    """Between the forward pass and the sampling of a step that read `lengths` tokens of each request."""
    hidden = torch.randn(sum(lengths) + 3, HIDDEN, generator=torch.Generator().manual_seed(1))
    starts = np.zeros(len(ids) + 4, dtype=np.int32)
    starts[1 : len(ids) + 1] = np.cumsum(lengths)
    starts[len(ids) + 1 :] = sum(lengths)
    return SimpleNamespace(
        steer_heads=heads,
        execute_model_state=SimpleNamespace(hidden_states=hidden),
        input_batch=SimpleNamespace(req_ids=ids),
        query_start_loc=SimpleNamespace(np=starts),
        discard_request_mask=SimpleNamespace(np=np.array([*goes_on, True, True])),
    )


def test_scores_are_the_formula_in_float32_for_all_heads_at_once() -> None:
    heads, weights = table(7, 8, 9)
    hidden = torch.randn(5, HIDDEN).bfloat16()
    scores = heads.scores(hidden)
    assert scores.shape == (5, 3, 2) and scores[0, :, 0].tolist() == [7, 8, 9]
    for column, (weight, bias) in enumerate(weights.values()):
        expected = hidden.double() @ weight.double() + bias.double()
        torch.testing.assert_close(scores[:, column, 1], expected, rtol=1e-5, atol=1e-5)


def test_heads_come_and_go_without_changing_the_others() -> None:
    heads, _ = table(1, 2, 3)
    hidden = torch.randn(2, HIDDEN)
    before = heads.scores(hidden)
    heads.drop(2)
    heads.drop(2)
    after = heads.scores(hidden)
    assert after[0, :, 0].tolist() == [1, 3]
    torch.testing.assert_close(after, before[:, [0, 2]])
    heads.drop(1)
    heads.drop(3)
    assert heads.scores(hidden).shape == (2, 0, 2)


def test_only_texts_whose_last_token_was_read_are_scored_each_at_that_token() -> None:
    heads, _ = table(1, 2)
    ids = ["chatcmpl-1", TEXT_A, TEXT_B, "cmpl-2", TEXT_C]
    runner = first_runner(ids, [1, 5, 64, 1, 9], [False, False, True, False, False], heads)
    scores = score_step(runner, last_rows)
    assert scores.keys() == {TEXT_A, TEXT_C}
    hidden = runner.execute_model_state.hidden_states
    # Both rows in one product, as in the step: two products of one row each may round otherwise.
    at_a, at_c = heads.scores(hidden[[5, 79]])
    torch.testing.assert_close(scores[TEXT_A], at_a)
    torch.testing.assert_close(scores[TEXT_C], at_c)


def test_every_step_that_samples_for_an_answer_that_asks_is_scored_each_choice_under_its_own_id() -> None:
    heads, _ = table(1, 2)
    answer = f"{answer_id()}-3f2a91bc"
    ids = [f"0_{answer}", "chatcmpl-1", f"11_{answer}", ANSWER, TEXT_A]
    runner = first_runner(ids, [1, 1, 1, 7, 4], [False, False, False, True, False], heads)
    for _ in range(2):
        scores = score_step(runner, last_rows)
        assert scores.keys() == {f"0_{answer}", f"11_{answer}", TEXT_A}
        rows = heads.scores(runner.execute_model_state.hidden_states[[0, 2, 13]])
        for request_id, expected in zip(scores, rows, strict=True):
            torch.testing.assert_close(scores[request_id], expected)
        runner.execute_model_state.hidden_states = torch.randn(17, HIDDEN)


@pytest.mark.parametrize(
    "request_id",
    [
        "steer-score-1",
        f"{TEXT_A}_0-3f2a91bc",
        f"chatcmpl-{TEXT_A}",
        f"chatcmpl-{ANSWER}-1-3f2a91bc",
        f"0_{ANSWER}_0-3f2a91bc",
        f"0_chatcmpl-{ANSWER}-1-3f2a91bc",
    ],
    ids=["another form", "a response", "chat", "chat as an answer", "a response as one", "a choice as one"],
)
def test_an_id_that_a_client_can_give_is_no_text_to_score(request_id: str) -> None:
    heads, _ = table(1)
    assert score_step(first_runner([request_id], [3], [False], heads), last_rows) == {}


def test_the_second_runner_says_the_same_in_other_words() -> None:
    heads, _ = table(1)
    hidden = torch.randn(80, HIDDEN)
    batch = SimpleNamespace(
        req_ids=["chatcmpl-1", TEXT_A, TEXT_B],
        query_start_loc_np=np.array([0, 1, 6, 70, 70, 70]),
        num_computed_prefill_tokens_np=np.array([40, 16, 64, 0]),
        num_scheduled_tokens=np.array([1, 5, 64]),
        prefill_len_np=np.array([40, 21, 200, 0]),
    )
    state = SimpleNamespace(input_batch=batch, hidden_states=hidden)
    runner = SimpleNamespace(steer_heads=heads, execute_model_state=state)
    scores = score_step(runner, last_rows_of_second)
    assert scores.keys() == {TEXT_A}
    torch.testing.assert_close(scores[TEXT_A], heads.scores(hidden[5:6])[0])


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_scores_leave_with_the_output_of_the_step(is_wrapped: bool) -> None:
    heads, _ = table(1)

    class Runner:
        def sample_tokens(self, grammar_output: Any) -> Any:
            self.execute_model_state = None
            plain = SimpleNamespace(prompt_token_id_logprobs_dict={})
            return SimpleNamespace(_model_runner_output=plain) if is_wrapped else plain

    tap_runner(Runner, last_rows)
    tap_runner(Runner, last_rows)
    runner: Any = Runner()
    vars(runner).update(vars(first_runner(["chatcmpl-1", TEXT_A], [1, 4], [False, False], heads)))
    output = runner.sample_tokens(None)
    plain = getattr(output, "_model_runner_output", output)
    assert plain.prompt_token_id_logprobs_dict.keys() == {TEXT_A}
    assert not (runner.sample_tokens(None).__dict__.get("prompt_token_id_logprobs_dict"))


def test_a_step_before_any_head_is_loaded_or_without_rows_is_left_alone() -> None:
    assert score_step(SimpleNamespace(execute_model_state=None), last_rows) == {}
    heads, _ = table(1)
    runner = first_runner(["chatcmpl-1"], [1], [False], heads)
    assert score_step(runner, last_rows) == {}
    del runner.steer_heads
    assert score_step(runner, last_rows) == {}


def test_workers_read_heads_from_their_folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("heads")
    base: BaseModel = tiny_base_model(folder / TINY)
    head = loaded_head(folder, "head-kind", base)
    worker = RewardTapExtension()
    worker.model_runner = SimpleNamespace(device="cpu")
    worker.steer_drop_head(1)
    worker.steer_load_head(1, str(head.folder))
    assert len(worker.model_runner.steer_heads) == 1
    worker.steer_drop_head(1)
    assert len(worker.model_runner.steer_heads) == 0
