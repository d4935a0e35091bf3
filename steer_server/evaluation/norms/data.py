"""Social stories with a judgement (NormAd, arXiv 2404.12464), and what a bag of words makes of them.

The label leaks: the wording of the question that ends a story in the original gives it away, and the story
alone still carries signal. So the question is removed here, and the baseline of words is printed beside every
model's score: folds disjoint by country, capitalised words (names, places) masked.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steer_server.errors import EvaluationError, TrainingError
from steer_server.evaluation.countries import alpha_3
from steer_server.training.survey_data import json_rows

LABELS = ("yes", "no", "neutral")
NUM_FOLDS = 5

_QUESTION = re.compile(r"[^.!?]*\?\s*$")
_CAPITALISED = re.compile(r"\b[A-Z][\w'’]*")


@dataclass(frozen=True)
class Story:
    country: str
    """ISO 3166 alpha-3, or the file's own name of a country that is not in it."""
    text: str
    """Without the question."""
    rule_of_thumb: str
    label: str


def read_stories(path: Path) -> list[Story]:
    """Stories from JSON lines, gzipped or not, with the keys `country, story, rule_of_thumb, label`.

    Raises: EvaluationError for a row that lacks one of them or has another label, with its line.
    """
    stories = []
    try:
        for where, row in json_rows(path):
            try:
                stories.append(_story(row))
            except (KeyError, TypeError, ValueError) as error:
                raise EvaluationError(f"{where}: {type(error).__name__} {error}") from error
    except TrainingError as error:
        raise EvaluationError(str(error)) from error
    if not stories:
        raise EvaluationError(f"{path.name} has no stories")
    return stories


def _story(row: Mapping[str, Any]) -> Story:
    for key in ("country", "story", "rule_of_thumb"):
        if not isinstance(row[key], str) or not row[key].strip():
            raise ValueError(f"{key} is {row[key]!r} and no text")
    if row["label"] not in LABELS:
        raise ValueError(f"label is {row['label']!r} and none of {', '.join(LABELS)}")
    country = alpha_3(row["country"]) or row["country"]
    return Story(country, without_question(row["story"]), row["rule_of_thumb"], row["label"])


def without_question(text: str) -> str:
    """The text less a question at its end; a text that is nothing but a question stays."""
    return _QUESTION.sub("", text).strip() or text.strip()


def without_names(text: str) -> str:
    """The text with every capitalised word masked; the first word of a sentence is one too."""
    return _CAPITALISED.sub("X", text)


def sample_by_country(stories: Sequence[Story], limit: int, seed: int) -> list[int]:
    """Indices of at most `limit` stories, drawn in turn from every country; all of them for a limit of 0."""
    if not limit or limit >= len(stories):
        return list(range(len(stories)))
    rng = random.Random(seed)
    by_country: dict[str, list[int]] = defaultdict(list)
    for index, story in enumerate(stories):
        by_country[story.country].append(index)
    for indices in by_country.values():
        rng.shuffle(indices)
    chosen: list[int] = []
    while len(chosen) < limit:
        # In a random order of countries, so that a limit below their number is no alphabetical choice.
        waiting = [c for c in sorted(by_country) if by_country[c]]
        for country in rng.sample(waiting, len(waiting))[: limit - len(chosen)]:
            chosen.append(by_country[country].pop())
    return sorted(chosen)


def word_baselines(stories: Sequence[Story], known: Sequence[Story] = ()) -> dict[str, list[str]]:
    """The label of each story by two models of its words alone, each trained on other countries only:
    `words` naive Bayes on counts of words; `word pairs` logistic regression on tf-idf of words and pairs.
    Where the other countries' stories all have one label, that is it. Empty where there are none.

    Args:
        known: further stories to train on, also of other countries only.
    """
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    rows = [*stories, *known]
    countries = [story.country for story in rows]
    num_folds = min(NUM_FOLDS, len(set(countries)))
    if num_folds < 2:
        return {}
    pairs = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    models = {
        "words": make_pipeline(CountVectorizer(), MultinomialNB()),
        "word pairs": make_pipeline(pairs, LogisticRegression(C=10, max_iter=1000)),
    }
    texts = [without_names(story.text) for story in rows]
    found = {name: [""] * len(stories) for name in models}
    for others, asked in GroupKFold(num_folds).split(rows, groups=countries):
        labels = [rows[i].label for i in others]
        judged = [i for i in asked if i < len(stories)]
        for name, model in models.items():
            guesses: Sequence[str] = labels[:1] * len(judged)
            if judged and len(set(labels)) > 1:
                guesses = model.fit([texts[i] for i in others], labels).predict([texts[i] for i in judged])
            for i, guess in zip(judged, guesses, strict=True):
                found[name][i] = str(guess)
    return found
