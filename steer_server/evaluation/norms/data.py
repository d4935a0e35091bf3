"""Social stories with a judgement (NormAd, arXiv 2404.12464), and what a bag of words makes of them.

The label leaks: the wording of the question that ends a story in the original gives it away, and the story
alone still carries signal. So the question is removed here, and the baseline of words is printed beside every
model's score: folds disjoint by country, capitalised words (names, places) masked.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from steer_server.errors import EvaluationError
from steer_server.evaluation.countries import alpha_3

LABELS = ("yes", "no", "neutral")
NUM_FOLDS = 5

_QUESTION = re.compile(r"[^.!?]*\?\s*$")
_CAPITALISED = re.compile(r"\b[A-Z][\w'’]*")


@dataclass(frozen=True)
class Story:
    country: str
    """ISO 3166 alpha-3."""
    text: str
    """Without the question."""
    rule_of_thumb: str
    label: str


def read_stories(path: Path) -> list[Story]:
    """Stories from gzipped JSON lines with the keys `country, story, rule_of_thumb, label`.

    Raises: EvaluationError for another label or a country that is not known.
    """
    stories = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            row = json.loads(line)
            if row["label"] not in LABELS:
                raise EvaluationError(f"{path.name}:{number}: the label is none of {', '.join(LABELS)}")
            text = without_question(row["story"])
            stories.append(Story(alpha_3(row["country"]), text, row["rule_of_thumb"], row["label"]))
    if not stories:
        raise EvaluationError(f"{path.name} has no stories")
    return stories


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


def word_baselines(stories: Sequence[Story]) -> dict[str, list[str]]:
    """The label of each story by two models of its words alone, each trained on other countries only:
    `words` naive Bayes on counts of words; `word pairs` logistic regression on tf-idf of words and pairs.
    Empty where there are fewer than two countries."""
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    countries = [story.country for story in stories]
    num_folds = min(NUM_FOLDS, len(set(countries)))
    if num_folds < 2:
        return {}
    pairs = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    models = {
        "words": make_pipeline(CountVectorizer(), MultinomialNB()),
        "word pairs": make_pipeline(pairs, LogisticRegression(C=10, max_iter=1000)),
    }
    texts = [without_names(story.text) for story in stories]
    labels = [story.label for story in stories]
    folds = GroupKFold(num_folds)
    return {
        name: list(map(str, cross_val_predict(model, texts, labels, groups=countries, cv=folds)))
        for name, model in models.items()
    }
