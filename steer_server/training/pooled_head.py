"""Fits a head as what all groups share plus an offset for its own groups, and predicts units it has not seen.

pool    logistic fit on every group's rows, robust over heads if wanted
head    logistic fit on the head's own rows, pulled to the pool; without an offset penalty the pool itself
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from steer_server.training.logistic import Linear, cross_entropy, fit_group_robust, fit_logistic
from steer_server.training.reward_data import Row

Array = np.ndarray


@dataclass(frozen=True)
class Table:
    """Rows with their features. Either all rows are judgements of one answer or all compare two."""

    rows: tuple[Row, ...]
    x_N_H: Array
    """h of the answer, or h of the answer minus h of the other."""
    centre_N_H: Array
    """h of the answer, or the mean of both."""
    is_pairs: bool

    def take(self, keep_N: Array) -> Table:
        """The rows where `keep_N` (bool) is true."""
        rows = tuple(row for row, keep in zip(self.rows, keep_N, strict=True) if keep)
        return Table(rows, self.x_N_H[keep_N], self.centre_N_H[keep_N], self.is_pairs)

    @cached_property
    def target_N(self) -> Array:
        return np.array([row.target for row in self.rows])

    @cached_property
    def group_N(self) -> Array:
        return np.array([row.group for row in self.rows])

    def mask(self, test: Callable[[Row], bool]) -> Array:
        return np.array([test(row) for row in self.rows], dtype=bool)


@dataclass(frozen=True)
class Head:
    """A linear score on standardised features."""

    linear: Linear
    mean_H: Array
    scale_H: Array
    is_pairs: bool

    def features(self, table: Table) -> Array:
        """Differences are scaled; single states are centred too."""
        shift = 0.0 if self.is_pairs else self.mean_H
        return np.asarray((table.x_N_H - shift) / self.scale_H)

    def raw(self, table: Table) -> Array:
        return self.linear.raw(self.features(table))

    def folded(self) -> Linear:
        """The same head on plain hidden states: `raw = w·h + b`. For pairs the mean training text gets 0."""
        weight = self.linear.weight / self.scale_H
        return Linear(weight, self.linear.bias - float(weight @ self.mean_H))


@dataclass(frozen=True)
class Fit:
    """How a head is fitted."""

    pool_penalty: float
    offset_penalty: float | None
    """None: the pool as it is. Large: the pool with an intercept of the head's own."""
    is_robust: bool = False
    eta: float = 1.0
    rounds: int = 20


def fit_pool(table: Table, fit: Fit, head_of_group: Mapping[str, str]) -> Head:
    """One head for all rows. With `fit.is_robust` the worst head's rows count (or, when all groups belong to
    one head, the worst group)."""
    mean_H = table.centre_N_H.mean(0)
    variance_H = table.centre_N_H.var(0) + (((table.x_N_H / 2) ** 2).mean(0) if table.is_pairs else 0)
    scale_H = np.sqrt(variance_H) + 1e-6
    empty = Head(Linear(np.zeros(len(mean_H)), 0.0), mean_H, scale_H, table.is_pairs)
    x, intercept = empty.features(table), not table.is_pairs
    if fit.is_robust:
        owners = np.array([head_of_group.get(group, "") for group in table.group_N])
        linear, _ = fit_group_robust(
            x,
            table.target_N,
            owners if len(set(owners)) > 1 else table.group_N,
            penalty=fit.pool_penalty,
            intercept=intercept,
            eta=fit.eta,
            rounds=fit.rounds,
        )
    else:
        ones = np.ones(len(x))
        linear = fit_logistic(x, table.target_N, ones, penalty=fit.pool_penalty, intercept=intercept)
    return Head(linear, mean_H, scale_H, table.is_pairs)


def fit_offset(pool: Head, own: Table, fit: Fit) -> Head:
    """The pool moved toward the head's own rows."""
    if fit.offset_penalty is None or not own.rows:
        return pool
    linear = fit_logistic(
        pool.features(own),
        own.target_N,
        np.ones(len(own.rows)),
        penalty=fit.offset_penalty,
        prior=pool.linear,
        intercept=not own.is_pairs,
    )
    return Head(linear, pool.mean_H, pool.scale_H, pool.is_pairs)


class Folds:
    """Out-of-fold scores: every row is scored by a head that saw nothing of its unit.

    Pools are kept, because all heads of a table share them.
    """

    def __init__(
        self, table: Table, fold_of_unit: Mapping[str, int], head_of_group: Mapping[str, str]
    ) -> None:
        self.table = table
        self.head_of_group = head_of_group
        self.fold_N = np.array([fold_of_unit[row.unit] for row in table.rows])
        self._pools: dict[tuple[int, Fit], Head] = {}

    def pool(self, fold: int, fit: Fit) -> Head:
        """The pool of all folds but one."""
        key = (fold, Fit(fit.pool_penalty, None, fit.is_robust, fit.eta, fit.rounds))
        if key not in self._pools:
            self._pools[key] = fit_pool(self.table.take(self.fold_N != fold), fit, self.head_of_group)
        return self._pools[key]

    def raw(self, own_N: Array, fit: Fit) -> Array:
        """Scores of the rows where `own_N` is true, in their order."""
        raw_N = np.zeros(len(own_N))
        for fold in np.unique(self.fold_N):
            here = own_N & (self.fold_N == fold)
            if here.any():
                pool = self.pool(int(fold), fit)
                head = fit_offset(pool, self.table.take(own_N & (self.fold_N != fold)), fit)
                raw_N[here] = head.raw(self.table.take(here))
        return np.asarray(raw_N[own_N])


def choose_fit(
    folds: Folds,
    own_N: Array,
    pool_penalties: Sequence[float],
    offset_penalties: Sequence[float | None],
) -> Fit:
    """The penalties with the least out-of-fold cross-entropy: the pool's on all rows, the offset's on the
    head's own."""

    def loss(mask_N: Array, fit: Fit) -> float:
        return float(cross_entropy(folds.raw(mask_N, fit), folds.table.target_N[mask_N]).mean())

    everything = np.ones(len(own_N), dtype=bool)
    pool = min(pool_penalties, key=lambda penalty: loss(everything, Fit(penalty, None)))
    choices = [Fit(pool, None)] if own_N.all() else [Fit(pool, offset) for offset in offset_penalties]
    return min(choices, key=lambda fit: loss(own_N, fit))
