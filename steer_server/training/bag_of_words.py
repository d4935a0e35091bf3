"""The baseline beside every head: words and pairs of words, without any model.

TF-IDF of one- and two-word terms that occur twice or more (once, where none does), logistic regression; for
choices between two answers on the difference of both. Prompts are not read, as they are the same for both
answers. Where there is nothing to learn words from, the more frequent class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from steer_server.training.reward_data import Row

Array = np.ndarray
INVERSE_PENALTY = 10.0


def bag_of_words_classes(training: Sequence[Row], rows: Sequence[Row], num_classes: int = 2) -> Array:
    """Predicted class of each row: 0 no, 1 yes (or the first answer), and with three classes 2 neutral.

    Rows of target 0.5 are left out of training with two classes. A training set with one class predicts it;
    one without rows predicts 0. For choices without words it is every other row's first answer.
    """
    from sklearn.linear_model import LogisticRegression

    if num_classes == 2:
        training = [row for row in training if row.target != 0.5]
    labels = np.array([row_class(row.target, num_classes) for row in training], dtype=int)
    is_pairs = bool(training) and training[0].other is not None
    words = _terms(training)
    if is_pairs and words is None:
        return np.arange(len(rows)) % 2
    if words is None or not rows or (len(set(labels)) < 2 and not is_pairs):
        return np.full(len(rows), np.bincount(labels, minlength=1).argmax())

    def features(some: Sequence[Row]) -> Any:
        first = words.transform([row.answer for row in some])
        if some[0].other is None:
            return first
        return first - words.transform([row.other or "" for row in some])

    x = features(training)
    if is_pairs:
        # Swapped copies: which answer comes first means nothing.
        from scipy.sparse import vstack

        x, labels = vstack([x, -x]), np.append(labels, 1 - labels)
    model: Any = LogisticRegression(C=INVERSE_PENALTY, fit_intercept=not is_pairs, max_iter=2000)
    return np.asarray(model.fit(x, labels).predict(features(rows)))


def _terms(training: Sequence[Row]) -> Any:
    """The fitted vectoriser; None where the texts have no words at all."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [text for row in training for text in (row.answer, row.other) if text is not None]
    for least in (2, 1):
        words: Any = TfidfVectorizer(ngram_range=(1, 2), min_df=least, sublinear_tf=True)
        try:
            return words.fit(texts)
        except ValueError:  # No texts, no terms in them, or none that is in so many.
            continue
    return None


def row_class(target: float, num_classes: int) -> int:
    """0 no, 1 yes; with three classes 2 for exactly 0.5."""
    return 2 if num_classes == 3 and target == 0.5 else int(target > 0.5)
