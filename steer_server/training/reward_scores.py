"""How good a head is, beside what needs no model. All scores are on rows of units that it has not seen.

accuracy   share of rows without ties where raw > 0 agrees with target > 0.5
majority   the more frequent class (0.5 for choices, whose order means nothing)
length     choices only: always the longer, or always the shorter answer, whichever is more often right
"""

from __future__ import annotations

from typing import Any

import numpy as np

from steer_server.catalogue.reward_head import Calibration
from steer_server.training.bag_of_words import bag_of_words_classes, row_class
from steer_server.training.calibration import expected_calibration_error, platt
from steer_server.training.logistic import sigmoid
from steer_server.training.pooled_head import Table

Array = np.ndarray


def accuracies(raw_N: Array, table: Table, words_N: Array) -> dict[str, Any]:
    """Accuracy beside its baselines, on rows without ties.

    Args:
        words_N: classes that the bag of words gives to the same rows.
    """
    decided = table.target_N != 0.5
    yes = table.target_N[decided] > 0.5
    num = int(decided.sum())
    scores: dict[str, Any] = {"rows": num}
    if not num:
        return scores
    scores["accuracy"] = _round(((raw_N[decided] > 0) == yes).mean())
    scores["majority"] = 0.5 if table.is_pairs else _round(max(yes.mean(), 1 - yes.mean()))
    scores["bag_of_words"] = _round((words_N[decided] == yes).mean())
    if table.is_pairs:
        is_longer = np.array([len(row.answer) > len(row.other or "") for row in table.rows])[decided]
        longer = (is_longer == yes).mean()
        scores["length"] = _round(max(longer, 1 - longer))
    return scores


def by_group(raw_N: Array, table: Table, words_N: Array) -> dict[str, dict[str, Any]]:
    """`accuracies` of each group."""
    scores = {}
    for group in sorted(set(table.group_N)):
        members = table.group_N == group
        scores[str(group)] = accuracies(raw_N[members], table.take(members), words_N[members])
    return scores


def worst_group(groups: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The group with the least accuracy, with its name."""
    scored = {name: scores for name, scores in groups.items() if scores["rows"]}
    name = min(scored, key=lambda group: scored[group]["accuracy"])
    return {"group": name, **scored[name]}


def calibration_errors(
    raw_N: Array, table: Table, calibration: Calibration | None, fold_N: Array | None = None
) -> dict[str, float]:
    """Expected calibration error of σ(raw) and of the calibrated score.

    Args:
        calibration: as shipped; or None, to fit one for each fold on the other folds' scores.
    """
    target_N = table.target_N
    if table.is_pairs:
        # A choice says the same from both sides; data that names the winner first has only one.
        raw_N, target_N = np.concatenate([raw_N, -raw_N]), np.concatenate([target_N, 1 - target_N])
        fold_N = None if fold_N is None else np.concatenate([fold_N, fold_N])
    if calibration is not None:
        calibrated = sigmoid(calibration.scale * raw_N + calibration.offset)
    else:
        assert fold_N is not None
        calibrated = np.zeros(len(raw_N))
        for fold in np.unique(fold_N):
            here = fold_N == fold
            others = platt(raw_N[~here], target_N[~here], offset=not table.is_pairs)
            calibrated[here] = sigmoid(others.scale * raw_N[here] + others.offset)
    return {
        "ece_before": _round(expected_calibration_error(sigmoid(raw_N), target_N)),
        "ece_after": _round(expected_calibration_error(calibrated, target_N)),
    }


def three_classes(raw_N: Array, table: Table, fold_N: Array, words_N: Array) -> dict[str, Any]:
    """Accuracy with neutral as a class of its own: no below one threshold, yes above another, both chosen for
    each fold on the other folds' scores.

    Args:
        words_N: classes 0, 1, 2 that a bag of words with three classes gives.
    """
    classes = np.array([row_class(target, 3) for target in table.target_N])
    predicted = np.zeros(len(raw_N), dtype=int)
    for fold in np.unique(fold_N):
        here = fold_N == fold
        low, high = _thresholds(raw_N[~here], classes[~here])
        predicted[here] = np.where(raw_N[here] < low, 0, np.where(raw_N[here] > high, 1, 2))
    counts = np.bincount(classes, minlength=3)
    return {
        "rows": len(raw_N),
        "accuracy": _round((predicted == classes).mean()),
        "majority": _round(counts.max() / len(classes)),
        "bag_of_words": _round((words_N == classes).mean()),
    }


def _thresholds(raw_N: Array, classes_N: Array) -> tuple[float, float]:
    grid = np.quantile(raw_N, np.linspace(0, 1, 41))
    best, chosen = -1.0, (0.0, 0.0)
    for i, low in enumerate(grid):
        for high in grid[i:]:
            predicted = np.where(raw_N < low, 0, np.where(raw_N > high, 1, 2))
            if (right := float((predicted == classes_N).mean())) > best:
                best, chosen = right, (float(low), float(high))
    return chosen


def words_by_fold(table: Table, fold_N: Array, num_classes: int = 2) -> Array:
    """Out-of-fold classes of all rows by the bag of words, learnt on the rows of the other folds."""
    classes = np.zeros(len(fold_N), dtype=int)
    for fold in np.unique(fold_N):
        here = fold_N == fold
        training, rows = table.take(~here).rows, table.take(here).rows
        classes[here] = bag_of_words_classes(training, rows, num_classes) if training else 0
    return classes


def _round(value: Any) -> float:
    return round(float(value), 4)
