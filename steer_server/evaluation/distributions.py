"""How far two answer distributions are apart, and how spread one is. Float64, last axis = options."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Shares = npt.NDArray[np.float64]
"""Non-negative, sums to 1 over the last axis."""


def jensen_shannon_bits(p: Shares, q: Shares) -> Shares:
    """`0.5 KL(p‖m) + 0.5 KL(q‖m)` with `m = (p+q)/2`, in bits: 0 for equal, 1 for disjoint."""
    m = (p + q) / 2
    return 0.5 * _kl_bits(p, m) + 0.5 * _kl_bits(q, m)


def wasserstein_1(p: Shares, q: Shares) -> Shares:
    """`sum_k |P_k - Q_k| / (n-1)` on cumulative sums over n >= 2 options in their natural order: the mean
    distance that answers must move, as a share of the whole scale (0..1)."""
    difference = np.cumsum(p, axis=-1) - np.cumsum(q, axis=-1)
    return np.asarray(np.abs(difference).sum(-1) / (p.shape[-1] - 1))


def uniform_bits(people: Sequence[Sequence[float]]) -> float:
    """What answering every option equally often scores: the mean of `jensen_shannon_bits(uniform, p)`."""
    scores = [float(jensen_shannon_bits(np.full(len(p), 1 / len(p)), np.array(p))) for p in people]
    return sum(scores) / len(scores)


def entropy_bits(p: Shares) -> Shares:
    """`-sum_i p_i log2 p_i`: 0 for one certain answer, `log2 n` for n equally likely ones."""
    return np.asarray(-(p * np.log2(np.where(p > 0, p, 1.0))).sum(-1))


def softmax(logs: Shares) -> Shares:
    """Shares proportional to `exp(logs)`."""
    powers = np.exp(logs - logs.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def mean_shares(distributions: Sequence[Sequence[float]] | Sequence[Shares]) -> Shares:
    """Mean of several distributions over the same options, each counting the same, renormalised."""
    mean = np.asarray(distributions, dtype=np.float64).mean(0)
    return np.asarray(mean / mean.sum())


def _kl_bits(p: Shares, m: Shares) -> Shares:
    ratio = np.divide(p, m, out=np.ones_like(p + m), where=(p > 0) & (m > 0))
    return np.asarray((p * np.log2(ratio)).sum(-1))
