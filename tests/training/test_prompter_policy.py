from __future__ import annotations

import pytest
import torch

from steer_server.training.prompter_policy import Prompter, group_example, pair_example
from tests.support.adapters import TINY
from tests.support.tiny_model import tiny_model_with_weights

pytestmark = [
    # PEFT's own imports warn.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

PROMPTS = ("How?", "Where does the tram to the harbour leave?", "Why not?")


@pytest.fixture(scope="module")
def prompter(tmp_path_factory: pytest.TempPathFactory) -> Prompter:
    torch.manual_seed(0)
    model = tiny_model_with_weights(tmp_path_factory.mktemp("model") / TINY)
    made = Prompter(model, rank=4, alpha=8, temperature=0.7, seed=1)
    # Float32, so that reading in one go and token by token are the same; far from uniform; ends now and then.
    made.model.float()
    with torch.no_grad():
        for parameter in made.parameters.values():
            parameter.normal_(0, 0.4, generator=torch.Generator().manual_seed(2))
        embedding = made.model.get_input_embeddings().weight
        embedding.mul_(5)
    return made


def test_rewrites_are_sampled_as_their_log_probabilities_say(prompter: Prompter) -> None:
    """The mean of `log ρ(x')` over samples is the policy's own: at every position the negative entropy. Rows
    of different lengths are padded, and those that have ended leave the batch."""
    groups = prompter.sample(PROMPTS, 200, max_tokens=6, seed=3)
    lengths = {len(ids) for group in groups for ids in group}
    assert min(lengths) < max(lengths) == 6, "some end early, some not at all"
    for prompt, group in zip(PROMPTS, groups, strict=True):
        batch = prompter.batch([group_example(prompt, group)])
        with torch.no_grad():
            log_p_P_V = prompter.log_policy(batch)
        found_P = log_p_P_V.gather(1, batch.tokens_P[:, None]).squeeze(1)
        expected_P = (log_p_P_V.exp() * log_p_P_V).sum(-1)
        spread_P = (log_p_P_V.exp() * (log_p_P_V - expected_P[:, None]) ** 2).sum(-1)
        deviation = (found_P - expected_P).sum() / spread_P.sum().sqrt()
        assert abs(deviation.item()) < 4, "in standard errors"


def test_a_greedy_rewrite_has_the_likeliest_token_at_every_position(prompter: Prompter) -> None:
    written = prompter.greedy(PROMPTS, max_tokens=8)
    batch = prompter.batch([group_example(p, [ids]) for p, ids in zip(PROMPTS, written, strict=True)])
    with torch.no_grad():
        assert torch.equal(prompter.log_policy(batch).argmax(-1), batch.tokens_P)


def test_samples_follow_from_weights_and_seed(prompter: Prompter) -> None:
    first, again, other = (prompter.sample(PROMPTS, 2, 5, seed) for seed in (1, 1, 2))
    assert first == again != other


def test_a_group_is_read_as_the_same_rewrites_one_by_one(prompter: Prompter) -> None:
    rewrites = ("How so?", "In what way?")
    ids = [tuple(prompter.encoder.answer_ids(pair_example("How?", text))[0]) for text in rewrites]
    together = prompter.batch([group_example("How?", ids)])
    with torch.no_grad():
        both = prompter.log_policy(together).gather(1, together.tokens_P[:, None]).squeeze(1)
        for index, text in enumerate(rewrites):
            alone = prompter.batch([pair_example("How?", text)])
            one = prompter.log_policy(alone).gather(1, alone.tokens_P[:, None]).squeeze(1)
            assert torch.allclose(both[together.answers_P == index], one, atol=1e-4)


def test_the_warm_start_stays_where_training_began(prompter: Prompter) -> None:
    batch = prompter.batch([pair_example("How?", "How so?")])
    kept = prompter.state()
    prompter.start_from(kept)
    with torch.no_grad():
        start = prompter.log_policy(batch)
        for parameter in prompter.parameters.values():
            parameter.add_(0.05)
        moved = prompter.log_policy(batch)
    with prompter.warm_start():
        held = prompter.log_policy(batch)
    assert torch.equal(held, start) and not torch.allclose(moved, start, atol=1e-3)
    assert prompter.log_policy(batch).requires_grad and not held.requires_grad
    assert all(parameter.requires_grad for parameter in prompter.parameters.values())
    prompter.start_from(kept)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in prompter.state().items())


def test_what_was_sampled_says_its_text_and_whether_it_ended(prompter: Prompter) -> None:
    encoder = prompter.encoder
    (ids,) = encoder.answer_ids(pair_example("How?", "so"))
    assert encoder.text(ids).split() == ["s", "o"] and encoder.has_ended(ids)
    assert not encoder.has_ended(ids[:-1]) and not encoder.has_ended(())
