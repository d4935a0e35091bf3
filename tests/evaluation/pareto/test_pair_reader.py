"""Preference pairs become the tokens that training sees, and are scored by what the server says of them."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import pytest

from steer_server.evaluation.answers import Reader, Setting
from steer_server.evaluation.client import RequestFailed, ServerClient
from steer_server.evaluation.pareto.pair_reader import EncodedPair, PairReader
from steer_server.training.preference_data import PreferencePair
from steer_server.training.preference_loss import PairEncoder, pair_example
from tests.evaluation.pareto.pareto_server import (
    ASSISTANT,
    BASE_LOG_PROBS,
    CHOSEN,
    REJECTED,
    ParetoServer,
    characters,
    conversation,
)
from tests.support.survey_server import END_OF_TURN, plan_of

SHORT = PreferencePair("u", "s", (("user", "Be kind."),), CHOSEN, REJECTED, 1.0)
LONG = PreferencePair(
    "u",
    "s",
    (("user", "Hello " * 20), ("assistant", "Well?"), ("user", "Be kind.")),
    f"{CHOSEN} and much longer than may be",
    REJECTED,
    0.7,
)


class CharacterTokenizer:
    """The fake server's tokens, as a tokenizer for training."""

    eos_token_id = END_OF_TURN

    def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> str:
        return "".join(map(chr, conversation(messages))) + ASSISTANT

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return characters(text)


def server(**options: Any) -> ParetoServer:
    return ParetoServer({}, lambda *_: 0.0, **options)


async def encoded(fake: ParetoServer, pair: PreferencePair, prompt: int, answer: int) -> EncodedPair:
    async with ServerClient("http://test", transport=fake.transport()) as client:
        return await PairReader(Reader(client, "tiny"), prompt, answer).encode(pair)


@pytest.mark.parametrize("pair", [SHORT, LONG])
@pytest.mark.parametrize(("prompt", "answer"), [(1000, 1000), (40, 10), (12, 4), (12, 3)])
async def test_pairs_are_cut_as_training_cuts_them(pair: PreferencePair, prompt: int, answer: int) -> None:
    found = await encoded(server(), pair, prompt, answer)
    training = PairEncoder(CharacterTokenizer(), prompt, answer)
    example = pair_example(pair)
    assert list(found.prompt) == training.prompt_ids(example)
    assert [list(found.chosen), list(found.rejected)] == training.answer_ids(example)


async def test_a_system_prompt_of_ones_own_replaces_the_default_and_is_never_cut() -> None:
    fake = server()
    told = "Be very fair to everyone in the room."
    async with ServerClient("http://test", transport=fake.transport()) as client:
        pairs = PairReader(Reader(client, "tiny"), 30, 10)
        await pairs.check_system_turn()
        pair = await pairs.encode(LONG)
        await pairs.log_probs(Setting("told", system=told), pair)
        await pairs.log_probs(Setting("base"), pair)
    sent = [body["prompt"] for path, body in fake.requests if path == "/v1/completions"]
    texts = ["".join(map(chr, prompts[0])) for prompts in sent]
    turn = "".join(map(chr, conversation([{"role": "system", "content": told}])))
    tail = "".join(map(chr, conversation([{"role": r, "content": c} for r, c in LONG.messages]))) + ASSISTANT
    assert texts[0] == turn + tail[-30:] + LONG.chosen[:10]
    assert texts[1] == tail[-30:] + LONG.chosen[:10]
    assert pair.num_tokens() == sum(map(len, sent[1]))
    assert pair.num_tokens(len(turn)) == sum(map(len, sent[0]))


async def test_log_probabilities_are_of_the_answers_alone() -> None:
    fake = server(lift=lambda steering, system, axis: steering.get("values", {}).get(axis, 0.0))
    async with ServerClient("http://test", transport=fake.transport()) as client:
        pairs = PairReader(Reader(client, "tiny"), 100, 100)
        pair = await pairs.encode(SHORT)
        base = await pairs.log_probs(Setting("base"), pair)
        steered = await pairs.log_probs(Setting.of_values("kind", {"kind": 1.0, "bold": 0.0}), pair)
    assert base == pytest.approx((BASE_LOG_PROBS[CHOSEN], BASE_LOG_PROBS[REJECTED]))
    assert steered == pytest.approx((base[0] + 0.5, base[1] - 0.5))
    steering = [body["steering"] for path, body in fake.requests if path == "/v1/completions"]
    assert steering == [{"method": "none"}, {"values": {"kind": 1.0}}]


async def test_a_log_probability_that_is_no_number_is_a_failure() -> None:
    fake = server(lift=lambda *_: math.nan)

    def not_finite(path: str, body: dict[str, Any]) -> httpx.Response | None:
        if path != "/v1/completions":
            return None
        found = {**fake._words(body), "steering": {"plan": plan_of(body["steering"])}}
        return httpx.Response(200, text=json.dumps(found))

    fake.refuse = not_finite
    async with ServerClient("http://test", transport=fake.transport()) as client:
        pairs = PairReader(Reader(client, "tiny"), 100, 100)
        pair = await pairs.encode(SHORT)
        with pytest.raises(RequestFailed, match="nan"):
            await pairs.log_probs(Setting("base"), pair)
        assert len(client.failures) == 1


async def test_a_template_without_system_turns_is_noticed() -> None:
    fake = server(has_system_turns=False)
    async with ServerClient("http://test", transport=fake.transport()) as client:
        with pytest.raises(RequestFailed, match="system turn"):
            await PairReader(Reader(client, "tiny"), 100, 100).check_system_turn()
