"""DPO on preference pairs, and how the losses of several value axes become one."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from steer_server.training.answers import AnswerEncoder, Batch
from steer_server.training.example import Example
from steer_server.training.preference_data import PreferencePair


class PairEncoder(AnswerEncoder):
    """Pairs as trees: the chosen and the rejected answer branch off one prompt."""

    def answer_ids(self, example: Example) -> list[list[int]]:
        """An answer that is cut off does not end the turn, unlike a whole one."""
        found = []
        for answer in example.answers:
            ids = list(self.tokenizer.encode(answer, add_special_tokens=False))
            whole = len(ids) <= self.max_answer_tokens
            found.append([*ids, self.tokenizer.eos_token_id] if whole else ids[: self.max_answer_tokens])
        return found

    def pairs(self, pairs: Sequence[PreferencePair]) -> Batch:
        return self.batch([pair_example(pair) for pair in pairs])


def pair_example(pair: PreferencePair) -> Example:
    """Answers (chosen, rejected)."""
    return Example(
        prompt=pair.messages[-1][1],
        answers=(pair.chosen, pair.rejected),
        shares=(pair.certainty, 1 - pair.certainty),
        is_whole=True,
        before=pair.messages[:-1],
    )


def margins(log_probs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """How much more than the reference the model prefers the chosen answer, in nats, `[N]`.

    *Semantics*: `Δ = (log π(y_w) - log π(y_l)) - (log π_ref(y_w) - log π_ref(y_l))`.

    Args:
        log_probs, reference: log-probabilities of (chosen, rejected), `[N, 2]`, of whole answers or, with
            both sides divided by |y|, per token: then neither length nor a long answer's noise counts.
    """
    return (log_probs[:, 0] - log_probs[:, 1]) - (reference[:, 0] - reference[:, 1])


def dpo_loss(margins_N: torch.Tensor, certainty_N: torch.Tensor, beta: float) -> torch.Tensor:
    """Mean over pairs of `-p log σ(βΔ) - (1 - p) log σ(-βΔ)`: DPO where p is 1, and less sure where people
    were less sure.

    *Source*: DPO, arXiv 2305.18290; soft labels as in its conservative form.
    """
    losses = -certainty_N * F.logsigmoid(beta * margins_N) - (1 - certainty_N) * F.logsigmoid(
        -beta * margins_N
    )
    return losses.mean()


def per_token(log_probs: torch.Tensor, batch: Batch) -> torch.Tensor:
    """`log π(y) / |y|` of (chosen, rejected), |y| in tokens, `[N, 2]`."""
    return log_probs / torch.bincount(batch.answers_P, minlength=2 * len(batch.shares)).view(-1, 2)


def sft_loss(log_probs: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Mean over pairs of `-log π(y_w) / |y_w|`, |y_w| in tokens."""
    return -per_token(log_probs, batch)[:, 0].mean()


def pull(weight: float, hold: float) -> float:
    """What an axis counts in the aggregate: `v = λ + h (1 - λ)`; λ itself if nothing is held."""
    return weight + hold * (1 - weight)


def held_certainty(certainty_N: torch.Tensor, weight: float, hold: float) -> torch.Tensor:
    """Labels under which DPO also keeps an axis at the reference, by as much as it has no weight, `[N]`.

    *Semantics*: `p' = (λ p + h (1 - λ) ½) / v`, so that `v DPO(p') = λ DPO(p) + h (1 - λ) DPO(½)`. An
    undecided pair's loss, `DPO(½)`, is least where the model is the reference.

    Without it (h = 0) nothing speaks against shared ranks that move an axis whatever its weight.
    """
    return (weight * certainty_N + hold * (1 - weight) * 0.5) / pull(weight, hold)


def hardest_axis(losses: Sequence[float], preference: Sequence[float], ideal: Sequence[float]) -> int:
    """Index of the axis that the weighted Tchebycheff aggregate `max_i λ_i (L_i - z_i)` is of.

    Its gradient is `λ_i ∇L_i` of this axis alone. An axis of weight 0 is no candidate.
    """
    weighted = [
        (weight * (loss - z), -i)
        for i, (loss, weight, z) in enumerate(zip(losses, preference, ideal, strict=True))
        if weight > 0
    ]
    return -max(weighted)[1]


def sample_preference(num_axes: int, concentration: float, vertex_share: float, key: str) -> list[float]:
    """λ on the simplex, which depends on `key` alone: with probability `vertex_share` a vertex, else from a
    symmetric Dirichlet, `λ_i = g_i / Σ g`, g_i from a gamma distribution of shape `concentration`."""
    rng = random.Random(key)
    if rng.random() < vertex_share or num_axes == 1:
        vertex = rng.randrange(num_axes)
        return [float(i == vertex) for i in range(num_axes)]
    drawn = [rng.gammavariate(concentration, 1.0) + 1e-12 for _ in range(num_axes)]
    return [g / sum(drawn) for g in drawn]


def draw_axes(pulls_m: Sequence[float], num_draws: int, key: str) -> list[int]:
    """Axes drawn in proportion to what they count. The mean loss of a minibatch of every drawn axis estimates
    `Σ_i v_i L_i / Σ_i v_i` without bias, and spends no work on axes that hardly count."""
    return random.Random(key).choices(range(len(pulls_m)), weights=pulls_m, k=num_draws)
