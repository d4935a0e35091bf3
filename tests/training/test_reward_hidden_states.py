from pathlib import Path

import numpy as np
import pytest
import torch

from steer_server.catalogue.reward_head import TextFormat
from steer_server.training import hidden_states
from steer_server.training.hidden_states import HiddenStates, batches_by_length, model_digest
from tests.support.adapters import TINY
from tests.support.tiny_model import tiny_model_with_weights


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model_with_weights(tmp_path_factory.mktemp("model") / TINY))


def test_a_state_is_the_last_tokens_after_the_final_norm_whatever_the_batch(
    model: str, tmp_path: Path
) -> None:
    """Against the model that vLLM would run: what its LM head reads, one text at a time."""
    from transformers import AutoModelForCausalLM

    sequences = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [5, 6, 7]]
    found = HiddenStates(model, tmp_path).of(sequences)
    causal = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    read: list[torch.Tensor] = []
    causal.get_output_embeddings().register_forward_pre_hook(lambda _, given: read.append(given[0][0, -1]))
    for sequence, state in zip(sequences, found, strict=True):
        with torch.no_grad():
            causal(input_ids=torch.tensor([sequence]))
        assert state == pytest.approx(read[-1].float().numpy(), abs=0.05)
    assert found.dtype == np.float32 and (found[0] == found[3]).all()


def test_an_interrupted_run_goes_on_where_it_stopped(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hidden_states, "BATCH_TOKENS", 4)
    sequences = [[i, i + 1] for i in range(5, 15)]
    states = HiddenStates(model, tmp_path)
    forward, batches = states._forward, []

    def fails_at_the_third(batch: list[list[int]]) -> np.ndarray:
        batches.append(batch)
        if len(batches) == 3:
            raise KeyboardInterrupt
        return forward(batch)

    states._forward = fails_at_the_third  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        states.of(sequences)
    again = HiddenStates(model, tmp_path)
    second, count = again._forward, []
    again._forward = lambda batch: count.extend(batch) or second(batch)  # type: ignore
    found = again.of(sequences)
    assert len(count) == 6
    assert (found == HiddenStates(model, tmp_path / "fresh").of(sequences)).all()


def test_batches_hold_few_padded_tokens_and_every_sequence_once() -> None:
    sequences = [[1] * length for length in (3000, 5, 700, 700, 700, 900, 1)]
    batches = list(batches_by_length(sequences))
    assert sorted(map(len, sequences)) == sorted(len(s) for batch in batches for s in batch)
    assert all(len(b) == 1 or len(b) * max(map(len, b)) <= 2048 for b in batches)


def test_the_cache_belongs_to_the_weights(model: str, tmp_path: Path) -> None:
    other = tiny_model_with_weights(tmp_path / TINY)
    assert model_digest(model) == model_digest(model) != model_digest(str(other))


def test_a_text_ends_with_its_last_turn_and_keeps_its_end(model: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}!{{ '\\n' }}{% endfor %}"
    messages = [{"role": "user", "content": "tea?"}]

    def text(max_tokens: int) -> str:
        ids = TextFormat(layout="conversation", max_tokens=max_tokens).token_ids(tokenizer, messages, "yes")
        return "".join(tokenizer.convert_ids_to_tokens(ids))

    assert text(100) == "[user]tea?!\n[assistant]yes!"
    assert text(8) == "ant]yes!"
