"""Who wins: scores of two answers to each prompt as wins, ties and losses, beside what length explains.

    win rate           (wins + ties/2) / prompts, 0..1; 0.5 is no difference
    tie                equal texts or equal scores
    length-controlled  σ(a) of the fit P(win) = σ(a + b·d/s) with d = difference of lengths in tokens and
                       s = its standard deviation: the win rate to be expected at equal length

The fit is logistic with ties as half a win and a small ridge penalty on b alone. It is a simpler relative of
the length-controlled AlpacaEval (arXiv 2404.04475), which models also the prompts' difficulty. It knows no
other confounder, and where one setting is always the longer one, equal length is an extrapolation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steer_server.evaluation.intervals import bootstrap_95, wilson_95
from steer_server.training.logistic import fit_logistic, sigmoid

PENALTY = 1e-3
"""On b: keeps the fit finite where length separates wins from losses."""
NUM_LENGTH_RESAMPLES = 200


@dataclass(frozen=True)
class Duel:
    """One prompt's two answers."""

    score: float
    """Of the setting's answer; only differences of scores mean something."""
    other_score: float
    """Of the answer it is compared with."""
    num_tokens: int
    other_num_tokens: int
    is_same_text: bool = False

    @property
    def outcome(self) -> float:
        """1 a win, 0.5 a tie, 0 a loss."""
        if self.is_same_text or self.score == self.other_score:
            return 0.5
        return float(self.score > self.other_score)


def compare(duels: Sequence[Duel], seed: int) -> dict[str, Any]:
    """The row of one setting under one judge.

    Args:
        duels: at least one.
        seed: of the resamples.
    """
    outcome_N = np.array([duel.outcome for duel in duels])
    difference_N = np.array([duel.score - duel.other_score for duel in duels])
    longer_N = np.array([float(duel.num_tokens - duel.other_num_tokens) for duel in duels])
    rate = float(outcome_N.mean())
    controlled = length_controlled(outcome_N, longer_N)
    return {
        "prompts": len(duels),
        "win": int((outcome_N == 1).sum()),
        "tie": int((outcome_N == 0.5).sum()),
        "lose": int((outcome_N == 0).sum()),
        "win_rate": round(rate, 4),
        "win_rate_95": _rounded(wilson_95(rate, len(duels))),
        "mean_score_difference": float(f"{difference_N.mean():.4g}"),
        "mean_score_difference_95": [
            float(f"{bound:.4g}")
            for bound in bootstrap_95(len(duels), lambda i: float(difference_N[i].mean()), seed)
        ],
        "mean_tokens": round(float(np.mean([duel.num_tokens for duel in duels])), 1),
        "other_mean_tokens": round(float(np.mean([duel.other_num_tokens for duel in duels])), 1),
        "longer_share": round(float((0.5 + 0.5 * np.sign(longer_N)).mean()), 4),
        "length_controlled_win_rate": round(controlled, 4),
        "length_controlled_win_rate_95": _rounded(
            bootstrap_95(
                len(duels),
                lambda i: length_controlled(outcome_N[i], longer_N[i]),
                seed,
                NUM_LENGTH_RESAMPLES,
            )
        ),
    }


def length_controlled(outcome_N: np.ndarray, longer_N: np.ndarray) -> float:
    """The win rate to be expected at equal length, 0..1; the plain one where lengths do not vary.

    Args:
        outcome_N: 0, 0.5 or 1.
        longer_N: tokens of the setting's answer less the other's.
    """
    spread = float(longer_N.std())
    if spread == 0 or outcome_N.min() == outcome_N.max():
        return float(outcome_N.mean())
    fit = fit_logistic((longer_N / spread)[:, None], outcome_N, np.ones(len(outcome_N)), penalty=PENALTY)
    return float(sigmoid(np.array(fit.bias)))


def _rounded(interval: tuple[float, float]) -> list[float]:
    return [round(bound, 4) for bound in interval]
