"""Objectives of every sweep, the fronts they make, and what the comparison shows.

For axis i with the recipe's β_i, over its held-out preference pairs (chosen w, rejected l):

    Δ   = (log π(w) - log π(l)) - (log π_base(w) - log π_base(l))      nats
    J_i = mean σ(β_i Δ)                                                0..1; 0.5 for the base model; up

where log π is per token if the adapter was trained so.

A preference pair that failed under one setting is left out under all, and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steer_server.errors import EvaluationError
from steer_server.evaluation.answers import Setting
from steer_server.evaluation.distributions import Shares
from steer_server.evaluation.pareto.fronts import (
    Point,
    hypervolume,
    inner_product,
    is_monotone,
    spacing,
    sparsity,
    spearman,
)
from steer_server.evaluation.pareto.plan import BASE, Method, Pair, Plan, Sweep

REFERENCE: Point = (0.5, 0.5)
"""r of the hypervolume: the base model."""
MIN_SPEARMAN = 0.95
NUM_RESAMPLES = 1000

LogProbs = Mapping[tuple[Setting, str], Shares]
"""(setting, axis) -> log-probabilities of (chosen, rejected) in nats, per token if the recipe says so,
`[P, 2]`; NaN: failed."""


def objective_terms(log_probs_P_2: Shares, base_P_2: Shares, beta: float) -> Shares:
    """`σ(β Δ)` of every pair, `[P]`; its mean is J."""
    # tanh does not overflow: σ(x) = (1 + tanh(x/2)) / 2.
    return np.asarray(0.5 * (1 + np.tanh(0.5 * beta * margins(log_probs_P_2, base_P_2))))


def margins(log_probs_P_2: Shares, base_P_2: Shares) -> Shares:
    """Δ of every pair, `[P]`, nats."""
    plain = log_probs_P_2[:, 0] - log_probs_P_2[:, 1]
    return np.asarray(plain - (base_P_2[:, 0] - base_P_2[:, 1]))


def share_above_zero(differences_P: Shares) -> float:
    """Share of positive differences, ties counting half, as on the trainer's card."""
    return float(np.mean((differences_P > 0) + 0.5 * (differences_P == 0)))


@dataclass
class ParetoScores:
    plan: Plan
    beta: Mapping[str, float]
    log_probs: LogProbs
    seed: int
    kept: dict[str, NDArray[np.intp]] = field(init=False)
    """Axis -> indices of the preference pairs that were answered under every setting."""

    def __post_init__(self) -> None:
        """Raises: EvaluationError when an axis has no pair that was answered under every setting."""
        self.kept = {}
        for axis in self.plan.axes:
            cells = [found for (_, a), found in self.log_probs.items() if a == axis]
            is_whole = np.all([np.isfinite(found).all(1) for found in cells], axis=0)
            self.kept[axis] = np.flatnonzero(is_whole)
            if not len(self.kept[axis]):
                raise EvaluationError(f"no preference pair of {axis} was answered under every setting")
        self._terms = {
            (setting, axis): objective_terms(
                found[self.kept[axis]], self._base(axis)[self.kept[axis]], self.beta[axis]
            )
            for (setting, axis), found in self.log_probs.items()
        }
        rng = np.random.default_rng(self.seed)
        self._draws = {
            axis: rng.integers(0, len(kept), (NUM_RESAMPLES, len(kept))) for axis, kept in self.kept.items()
        }

    def objective(self, setting: Setting, axis: str) -> float:
        """J."""
        return float(self._terms[setting, axis].mean())

    def front(self, sweep: Sweep) -> list[Point]:
        a, b = sweep.pair
        return [(self.objective(s, a), self.objective(s, b)) for s in sweep.settings]

    def results(self) -> dict[str, Any]:
        """What the report says of pairs, axes and verdicts."""
        pairs = [self._pair(pair) for pair in self.plan.pairs]
        return {
            "weights_of_the_first_axis": [w for w, _ in self.plan.weights],
            "reference_point": list(REFERENCE),
            "base": {axis: self._measures(BASE, axis) for axis in self.plan.axes},
            "pairs": pairs,
            "verdicts": [spearman_verdict(pairs), soup_verdict(pairs)],
        }

    def _base(self, axis: str) -> Shares:
        return self.log_probs[BASE, axis]

    def _pair(self, pair: Pair) -> dict[str, Any]:
        sweeps: dict[Method, Sweep] = {s.method: s for s in self.plan.sweeps if s.pair == pair}
        fronts = {method: self.front(sweep) for method, sweep in sweeps.items()}
        methods: dict[str, Any] = {}
        for method, sweep in sweeps.items():
            points = [
                {
                    "weights": [round(w, 6) for w in weight],
                    **{axis: self._measures(setting, axis) for axis in pair},
                }
                for weight, setting in zip(self.plan.weights, sweep.settings, strict=True)
            ]
            methods[method] = {
                "metrics": front_metrics(self.plan.weights, fronts[method]),
                "response": response(pair, self.plan.weights, fronts[method]),
                "points": points,
            }
        panacea = fronts["panacea"]
        return {
            "pair": list(pair),
            "methods": methods,
            "fixed": fixed_vectors(pair, self.plan.weights, panacea),
            "base": front_metrics(self.plan.weights, [REFERENCE]),
            "hypervolume_gain": {
                method: {
                    "difference": _rounded(
                        hypervolume(panacea, REFERENCE) - hypervolume(fronts[method], REFERENCE)
                    ),
                    "difference_95": self._gain_interval(sweeps["panacea"], sweep),
                }
                for method, sweep in sweeps.items()
                if method != "panacea"
            },
        }

    def _measures(self, setting: Setting, axis: str) -> dict[str, float]:
        kept = self.kept[axis]
        found, base = self.log_probs[setting, axis][kept], self._base(axis)[kept]
        return {
            "objective": _rounded(self.objective(setting, axis)),
            "moved_share": _rounded(share_above_zero(margins(found, base))),
            "likelihood_accuracy": _rounded(share_above_zero(found[:, 0] - found[:, 1])),
            "mean_margin_nats": _rounded(float(margins(found, base).mean())),
        }

    def _gain_interval(self, ours: Sweep, theirs: Sweep) -> list[float]:
        """The middle 95 % over resamples of the preference pairs, the same ones for both methods."""
        gains = self._resampled_hypervolumes(ours) - self._resampled_hypervolumes(theirs)
        return [_rounded(float(v)) for v in np.percentile(gains, (2.5, 97.5))]

    def _resampled_hypervolumes(self, sweep: Sweep) -> Shares:
        objectives = [
            [self._terms[setting, axis][self._draws[axis]].mean(1) for axis in sweep.pair]
            for setting in sweep.settings
        ]
        front_R_N_2 = np.moveaxis(np.array(objectives), 2, 0)
        return np.array([hypervolume([(x, y) for x, y in front], REFERENCE) for front in front_R_N_2])


def front_metrics(weights: Sequence[Point], front: Sequence[Point]) -> dict[str, float | None]:
    """The four metrics of fronts.py. One point is a policy that gives everyone the same, whatever λ."""
    given = list(front) * len(weights) if len(front) == 1 else front
    return {
        "hypervolume": _rounded(hypervolume(front, REFERENCE)),
        "inner_product": _rounded(inner_product(weights, given)),
        "sparsity": _rounded_or_none(sparsity(front)),
        "spacing": _rounded_or_none(spacing(front)),
    }


def response(pair: Pair, weights: Sequence[Point], front: Sequence[Point]) -> dict[str, Any]:
    """How each axis' objective follows its own weight along the sweep."""
    found = {}
    for i, axis in enumerate(pair):
        asked, got = [weight[i] for weight in weights], [point[i] for point in front]
        found[axis] = {"spearman": round(spearman(asked, got), 4), "is_monotone": is_monotone(asked, got)}
    return found


def fixed_vectors(pair: Pair, weights: Sequence[Point], front: Sequence[Point]) -> dict[str, Any]:
    """What one vector for everyone reaches: even weights, each axis alone, and the one of the sweep with the
    largest hypervolume, chosen knowing the result."""
    a, b = pair
    best = max(range(len(front)), key=lambda n: (hypervolume([front[n]], REFERENCE), sum(front[n])))
    chosen = {"even": len(front) // 2, f"{a} alone": 0, f"{b} alone": len(front) - 1, "best": best}
    return {
        name: {
            "weights": [round(w, 6) for w in weights[n]],
            "objectives": [_rounded(j) for j in front[n]],
            **front_metrics(weights, [front[n]]),
        }
        for name, n in chosen.items()
    }


def spearman_verdict(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Whether every axis follows its weight in every pair of axes."""
    found = [
        (row["spearman"], row["is_monotone"], axis, " with ".join(result["pair"]))
        for result in pairs
        for axis, row in result["methods"]["panacea"]["response"].items()
    ]
    least, _, axis, where = min(found)
    reached = sum(value >= MIN_SPEARMAN for value, *_ in found)
    return {
        "must_show": f"Spearman >= {MIN_SPEARMAN} for every axis of every pair",
        "holds": reached == len(found),
        "text": f"{reached} of {len(found)} reach it, lowest {least:.3f} ({axis} in {where}); "
        f"{sum(monotone for _, monotone, *_ in found)} of {len(found)} rise and never fall",
        "least_spearman": least,
    }


def soup_verdict(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Whether the preference vector's front dominates more than the blended adapters'. None: not measured."""
    must_show = "panacea's hypervolume above the soup's in every pair"
    compared = [result for result in pairs if "soup" in result["methods"]]
    if not compared:
        return {"must_show": must_show, "holds": None, "text": "not measured, no soups are served"}
    gains = [result["hypervolume_gain"]["soup"] for result in compared]
    above = sum(gain["difference"] > 0 for gain in gains)
    clear = [sum(g["difference_95"][0] > 0 for g in gains), sum(g["difference_95"][1] < 0 for g in gains)]
    ours, theirs = (
        np.mean([result["methods"][method]["metrics"]["hypervolume"] for result in compared])
        for method in ("panacea", "soup")
    )
    return {
        "must_show": must_show,
        "holds": False if above < len(compared) else True if len(compared) == len(pairs) else None,
        "text": f"above in {above} of {len(compared)} pairs measured (of {len(pairs)}), mean {ours:.4f} "
        f"against {theirs:.4f}; the 95 % interval is above 0 in {clear[0]} and below 0 in {clear[1]}",
    }


def _rounded(value: float) -> float:
    return round(value, 6)


def _rounded_or_none(value: float | None) -> float | None:
    return None if value is None else _rounded(value)
