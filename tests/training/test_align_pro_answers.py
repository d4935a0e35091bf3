from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from steer_server.errors import TrainingError
from steer_server.training.align_pro_answers import Asked, FrozenModel
from steer_server.training.align_pro_recipe import Answering
from tests.support.rewarding_server import RewardingServer, on_socket, rewarding_server


def has_prompt(prompt: str, answer: str) -> float:
    return 0.25 + 0.5 * (prompt in answer)


@pytest.fixture
def server() -> RewardingServer:
    return rewarding_server({"has_prompt": has_prompt, "long": lambda prompt, answer: len(answer) / 100})


@pytest.fixture
def frozen(server: RewardingServer) -> Iterator[FrozenModel]:
    with on_socket(server) as url:
        yield FrozenModel(url, "", ("has_prompt", "long"), Answering(temperature=0.5, max_tokens=9))


def test_the_rewrite_is_answered_and_the_answer_scored_with_the_users_own_prompt(
    server: RewardingServer, frozen: FrozenModel
) -> None:
    found = frozen.answers([Asked("How?", "Oh, How? Say.", 1), Asked("How?", "In what way?", 2)])
    assert [answer.text for answer in found] == ["Oh, How? Say.", "In what way?"]
    assert [answer.scores["has_prompt"] for answer in found] == [0.75, 0.25]
    assert [answer.scores["long"] for answer in found] == [0.13, 0.12]
    sent = {body["seed"]: body for path, body in server.requests if path == "/v1/chat/completions"}
    assert sent[1]["messages"] == [{"role": "user", "content": "Oh, How? Say."}]
    assert (sent[1]["temperature"], sent[1]["max_tokens"], sent[1]["model"]) == (0.5, 9, "tiny")
    assert sent[1]["steering"] == {"method": "none"}
    scored = [body["messages"][-1]["content"] for path, body in server.requests if path == "/v1/rewards"]
    assert scored == ["How?", "How?"]


def test_an_empty_answer_is_scored_too(server: RewardingServer, frozen: FrozenModel) -> None:
    server.answer_of = lambda steering, prompt, seed: ""
    (found,) = frozen.answers([Asked("How?", "In what way?", 1)])
    assert found.text == "" and found.scores["long"] == 0.01


def test_the_server_says_what_it_serves(frozen: FrozenModel) -> None:
    assert frozen.describe() == {
        "model": "tiny",
        "heads": {"has_prompt": "head-has_prompt@1.0.0", "long": "head-long@1.0.0"},
    }


def test_a_missing_head_a_missing_server_and_a_refusal_end_in_an_error_that_says_so(
    server: RewardingServer, frozen: FrozenModel
) -> None:
    lacking = FrozenModel(frozen.url, "", ("brave",), frozen.answering)
    with pytest.raises(TrainingError, match="Unknown head brave"):
        lacking.describe()
    with pytest.raises(TrainingError, match="does not answer as a steer-server"):
        FrozenModel("http://127.0.0.1:9", "", ("long",), frozen.answering).describe()
    server.refuse = lambda path, body: httpx.Response(400, text="too long")
    with pytest.raises(TrainingError, match="400: too long; the same command goes on"):
        frozen.answers([Asked("How?", "In what way?", 1)])


def test_an_answer_that_was_steered_is_not_taken_for_the_frozen_models(
    server: RewardingServer, frozen: FrozenModel
) -> None:
    server.applied = lambda plan: json.dumps({"cultures": {"other": 1}})
    with pytest.raises(TrainingError, match="was applied instead"):
        frozen.answers([Asked("How?", "In what way?", 1)])
