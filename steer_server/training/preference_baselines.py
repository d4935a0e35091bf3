"""What needs no model, on the preference pairs of an axis: how often it finds the chosen answer.

longer, shorter   always the answer with more, or fewer, characters
bag of words      terms of the answer, and words of the last message each together with the answer's first
                  word (`yes_risk`), learnt on other pairs as in `bag_of_words.py`

All are shares of pairs, ties counting half. An adapter that only makes longer answers more probable moves the
model toward the preferred answer in as many pairs as `longer` says.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from steer_server.frozen.wording import words
from steer_server.training.bag_of_words import bag_of_words_classes
from steer_server.training.preference_data import PreferencePair, fold_of
from steer_server.training.reward_data import Row

BASELINES = ("longer", "shorter", "bag_of_words")


def baselines(scored: Sequence[PreferencePair], training: Sequence[PreferencePair]) -> dict[str, float]:
    """Share of the pairs whose chosen answer each of BASELINES picks, 0..1.

    Args:
        scored: at least one.
        training: what the bag of words learns from.
    """
    return _shares(scored, _picked_by_words(scored, training))


def baselines_by_fold(
    scored: Sequence[PreferencePair], pairs: Sequence[PreferencePair], share: float, seed: int
) -> dict[str, float]:
    """The same where nothing is set apart for training: words are learnt on the other folds of `pairs`."""
    picked = np.zeros(len(scored))
    fold_N = np.array([fold_of(pair, share, seed) for pair in scored])
    for fold in set(fold_N):
        others = [pair for pair in pairs if fold_of(pair, share, seed) != fold]
        here = np.flatnonzero(fold_N == fold)
        picked[here] = _picked_by_words([scored[i] for i in here], others)
    return _shares(scored, picked)


def _shares(scored: Sequence[PreferencePair], by_words_N: np.ndarray) -> dict[str, float]:
    longer = float(np.mean([_half_step(len(pair.chosen) - len(pair.rejected)) for pair in scored]))
    return {
        "longer": round(longer, 4),
        "shorter": round(1 - longer, 4),
        "bag_of_words": round(float(by_words_N.mean()), 4),
    }


def _half_step(difference: int) -> float:
    return 1.0 if difference > 0 else 0.5 if difference == 0 else 0.0


def _picked_by_words(scored: Sequence[PreferencePair], training: Sequence[PreferencePair]) -> np.ndarray:
    """1 where the chosen answer is picked, else 0."""
    # The chosen answer stands first in every other row, so that not knowing is right half the time.
    rows = [_row(pair, is_first=i % 2 == 0) for i, pair in enumerate(scored)]
    found = bag_of_words_classes([_row(pair, is_first=True) for pair in training], rows)
    wanted = np.array([row.target > 0.5 for row in rows])
    return np.asarray((found == wanted).astype(float))


def _row(pair: PreferencePair, is_first: bool) -> Row:
    texts = [_terms(pair, answer) for answer in (pair.chosen, pair.rejected)]
    first, other = texts if is_first else texts[::-1]
    return Row(pair.unit, pair.source, (), first, other, 1.0 if is_first else 0.0)


def _terms(pair: PreferencePair, answer: str) -> str:
    begin = next(iter(words(answer)), "")
    crossed = (f"{begin}_{word}" for word in dict.fromkeys(words(pair.messages[-1][1])))
    return " ".join([answer, *crossed])
