"""Logistic regression with soft targets toward a prior, and weights that let the worst group count.

    loss(w, b) = Σ_n v_n CE(t_n, σ(w·x_n + b)) / Σ_n v_n + penalty/2 ‖w - prior‖²

Bradley-Terry is the same on differences x = h₁ - h₂ without b. scikit-learn's has neither soft targets nor a
prior, hence this one, on SciPy's L-BFGS.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Linear:
    """`raw = x·weight + bias`."""

    weight: Array
    bias: float

    def raw(self, x_N_H: Array) -> Array:
        return np.asarray(x_N_H @ self.weight + self.bias)


def fit_logistic(
    x_N_H: Array,
    target_N: Array,
    weight_N: Array,
    *,
    penalty: float,
    prior: Linear | None = None,
    intercept: bool = True,
    start: Linear | None = None,
) -> Linear:
    """The minimum of the loss in the module's docstring; it is convex.

    Args:
        x_N_H: features of about unit size.
        target_N: 0..1.
        weight_N: v, non-negative, any scale.
        prior: what it is pulled to; zero without.
        start: where the search begins; saves time only.
    """
    from scipy.optimize import minimize

    x = np.asarray(x_N_H, dtype=np.float64)
    v = weight_N / weight_N.sum()
    centre = np.zeros(x.shape[1]) if prior is None else np.asarray(prior.weight, dtype=np.float64)
    start = start or prior or Linear(centre, 0.0)

    def loss(parameters: Array) -> tuple[float, Array]:
        w, b = parameters[:-1], parameters[-1] if intercept else 0.0
        z = x @ w + b
        # log(1 + e^z) - t z is the cross-entropy, without overflow
        value = float(v @ (np.logaddexp(0, z) - target_N * z)) + penalty / 2 * float(
            (w - centre) @ (w - centre)
        )
        slope = v * (sigmoid(z) - target_N)
        return value, np.append(x.T @ slope + penalty * (w - centre), slope.sum() if intercept else 0.0)

    found = minimize(
        loss, np.append(start.weight, start.bias), jac=True, method="L-BFGS-B", options={"maxiter": 500}
    )
    return Linear(found.x[:-1], float(found.x[-1]) if intercept else 0.0)


def sigmoid(z: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * z)))


def cross_entropy(raw_N: Array, target_N: Array) -> Array:
    """Per row, in nats."""
    return np.asarray(np.logaddexp(0, raw_N) - target_N * raw_N)


def group_weights(losses: dict[str, float], before: dict[str, float], eta: float) -> dict[str, float]:
    """alpha_g <- alpha_g exp(eta·loss_g) / Σ. Source: GR-DPO (arXiv 2405.20304)."""
    top = max(losses.values())
    raised = {g: before[g] * float(np.exp(eta * (loss - top))) for g, loss in losses.items()}
    total = sum(raised.values())
    return {g: a / total for g, a in raised.items()}


def fit_group_robust(
    x_N_H: Array,
    target_N: Array,
    group_N: Array,
    *,
    penalty: float,
    prior: Linear | None = None,
    intercept: bool = True,
    eta: float = 1.0,
    rounds: int = 20,
) -> tuple[Linear, dict[str, float]]:
    """min over (w, b) of max over group weights alpha of Σ_g alpha_g loss_g + penalty term: the worst group
    counts.

    Alternates an exact fit for the current alpha and one exponentiated-gradient step of alpha; the alphas of
    all rounds are averaged, as min-max needs, and the last fit is for that average.

    Returns: the fit and the final alpha by group.
    """
    groups = sorted({str(g) for g in group_N})
    alpha = dict.fromkeys(groups, 1 / len(groups))
    total = dict.fromkeys(groups, 0.0)
    members = {g: group_N == g for g in groups}

    def fit(shares: dict[str, float], start: Linear | None) -> Linear:
        weight_N = np.zeros(len(target_N))
        for g, rows in members.items():
            weight_N[rows] = shares[g] / rows.sum()
        return fit_logistic(
            x_N_H, target_N, weight_N, penalty=penalty, prior=prior, intercept=intercept, start=start
        )

    head: Linear | None = None
    for _ in range(rounds):
        head = fit(alpha, head)
        losses_N = cross_entropy(head.raw(x_N_H), target_N)
        alpha = group_weights({g: float(losses_N[rows].mean()) for g, rows in members.items()}, alpha, eta)
        total = {g: total[g] + alpha[g] / rounds for g in groups}
    return fit(total, head), total
