"""Calibration of raw scores on rows that the head has not seen, and its error.

Platt scaling: calibrated = σ(scale·raw + offset), fitted by cross-entropy. For choices between two answers
the offset is 0, so that swapping the answers swaps the probabilities.
"""

from __future__ import annotations

import numpy as np

from steer_server.catalogue.reward_head import Calibration
from steer_server.training.logistic import fit_logistic

Array = np.ndarray
NUM_BINS = 10


def platt(raw_N: Array, target_N: Array, *, offset: bool) -> Calibration:
    """The calibration of raw scores to targets (0..1)."""
    spread = float(raw_N.std()) or 1.0
    fit = fit_logistic(raw_N[:, None] / spread, target_N, np.ones(len(raw_N)), penalty=1e-4, intercept=offset)
    return Calibration(scale=float(fit.weight[0]) / spread, offset=fit.bias)


def expected_calibration_error(probability_N: Array, target_N: Array) -> float:
    """Σ_bins (n_bin/N) |mean probability - mean target| over NUM_BINS bins of equal width; 0..1."""
    bins = np.minimum((probability_N * NUM_BINS).astype(int), NUM_BINS - 1)
    gaps = [
        (bins == b).sum() * abs(probability_N[bins == b].mean() - target_N[bins == b].mean())
        for b in range(NUM_BINS)
        if (bins == b).any()
    ]
    return float(sum(gaps) / len(target_N))
