"""Texts to score as vLLM's requests, without a running model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from steer_server.catalogue.reward_head import Message, TextFormat
from steer_server.catalogue.snapshot import LoadedRewardHead
from steer_server.engine.base import ScoringText
from steer_server.errors import EngineError, RequestError
from tests.support.adapters import TINY, tiny_base_model
from tests.support.heads import loaded_head
from tests.support.tiny_model import tiny_model_with_weights
from tests.support.vllm_warnings import IMPORTS_VLLM

pytestmark = IMPORTS_VLLM

MESSAGES: tuple[Message, ...] = ({"role": "user", "content": "Is bread cheap? "},)
WHOLE, LAST_EIGHT = (TextFormat(layout="conversation", max_tokens=num) for num in (64, 8))


class Client:
    """Stands for vLLM's engine client: the heads that the workers were told of score every text."""

    errored = False

    def __init__(self, model: Path) -> None:
        self.model_config = SimpleNamespace(
            tokenizer=str(model), tokenizer_revision=None, trust_remote_code=False, max_model_len=40
        )
        self.heads: list[int] = []
        self.read: list[Any] = []
        """Every prompt."""
        self.is_silent = False
        self.failure: Exception | None = None
        """Of every call to the workers."""

    async def collective_rpc(self, method: str, args: tuple[Any, ...]) -> list[None]:
        if self.failure is not None:
            raise self.failure
        if method == "steer_load_head":
            self.heads.append(args[0])
        else:
            self.heads.remove(args[0])
        return [None]

    async def generate(self, prompt: Any, sampling: Any, request_id: str, **_: Any) -> AsyncIterator[Any]:
        assert sampling.max_tokens == 1
        self.read.append(prompt)
        scores = np.array([[head, -float(head)] for head in self.heads])
        yield SimpleNamespace(prompt_token_id_logprobs=None if self.is_silent else scores)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_with_weights(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> LoadedRewardHead:
    folder = tmp_path_factory.mktemp("heads")
    return loaded_head(folder, "head-kind", tiny_base_model(folder / TINY))


@pytest.fixture
def client(model: Path) -> Client:
    return Client(model)


@pytest.fixture
def scorer(client: Client) -> Any:
    from steer_server.engine.scoring import VllmScorer
    from steer_server.engine.texts import ModelTokenizer

    return VllmScorer(client, ModelTokenizer(client))


def text(answer: str, text_format: TextFormat = WHOLE, **more: Any) -> ScoringText:
    return ScoringText(MESSAGES, answer, text_format, **more)


async def test_a_text_is_read_once_under_each_salt_and_cut_where_its_format_says(
    client: Client, scorer: Any, head: LoadedRewardHead
) -> None:
    await scorer.load_head(head)
    texts = [text("Not now."), text("Not now.", LAST_EIGHT), text("Not now."), text("Yes.", cache_salt="me")]
    scored = await scorer.score(texts)
    assert [(one.num_tokens, one.is_cut) for one in scored] == [
        (24, False),
        (8, True),
        (24, False),
        (20, False),
    ]
    lengths = [(len(prompt["prompt_token_ids"]), prompt.get("cache_salt")) for prompt in client.read]
    assert lengths == [(24, None), (8, None), (20, "me")]
    await scorer.score([text("Yes."), text("Yes.", cache_salt="me"), text("Yes.", cache_salt="you")])
    assert len(client.read) == 3 + 3


async def test_formats_that_differ_in_length_alone_share_the_splitting_into_tokens(
    client: Client, scorer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    split: list[str] = []
    original = TextFormat.all_token_ids

    def all_token_ids(self: TextFormat, tokenizer: Any, messages: Any, answer: str) -> list[int]:
        split.append(answer)
        return original(self, tokenizer, messages, answer)

    monkeypatch.setattr(TextFormat, "all_token_ids", all_token_ids)
    await scorer.score([text("Yes.", one) for one in (WHOLE, LAST_EIGHT)] + [text("No.")])
    assert split == ["Yes.", "No."]


async def test_a_score_is_of_the_version_that_was_loaded_under_its_number(
    client: Client, scorer: Any, head: LoadedRewardHead
) -> None:
    await scorer.load_head(head)
    (first,) = await scorer.score([text("Yes.")])
    await scorer.drop_head(head.digest)
    await scorer.drop_head(head.digest)
    (none,) = await scorer.score([text("Yes.")])
    await scorer.load_head(head)
    (second,) = await scorer.score([text("Yes.")])
    assert (first.raw, none.raw, second.raw) == ({head.digest: -1.0}, {}, {head.digest: -2.0})


async def test_a_head_that_cannot_be_loaded_is_an_error_that_names_it_and_no_folder(
    client: Client, scorer: Any, head: LoadedRewardHead
) -> None:
    client.failure = FileNotFoundError(f"No such file: {head.folder}")
    with pytest.raises(EngineError, match=r"head-kind@1\.0\.0") as caught:
        await scorer.load_head(head)
    assert str(head.folder) not in str(caught.value)
    client.failure = None
    await scorer.load_head(head)
    (scored,) = await scorer.score([text("Yes.")])
    assert scored.raw.keys() == {head.digest}


async def test_a_text_without_scores_is_an_error(client: Client, scorer: Any) -> None:
    client.is_silent = True
    with pytest.raises(EngineError, match="no score"):
        await scorer.score([text("Yes.")])


async def test_a_text_that_the_model_has_no_room_for_is_refused(client: Client, scorer: Any) -> None:
    with pytest.raises(RequestError, match="64 tokens; this server scores at most 39") as caught:
        await scorer.score([text("a" * 50)])
    assert caught.value.code == "context_length_exceeded" and not client.read
    assert await scorer.score([text("a" * 50, LAST_EIGHT)])
