"""Survey questions as training rows: human answer distributions rendered as chats in several forms."""

from __future__ import annotations

import gzip
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from steer_server.errors import TrainingError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

LETTER_ASKS = (
    "Answer with one letter.",
    "Which option do you choose? Reply with the letter only.",
    "Give the letter of your answer.",
)
TEXT_ASKS = ("", "What is your own view?", "Please answer for yourself, in a few words.")


@dataclass(frozen=True)
class SurveyQuestion:
    """One question and how people answered it."""

    question_id: str
    question: str
    options: tuple[str, ...]
    distribution: tuple[float, ...]
    """Share of people per option, sums to 1."""


@dataclass(frozen=True)
class Example:
    """One chat to learn. Exactly one of `letters` and `answer` is set."""

    prompt: str
    letters: tuple[float, ...] | None = None
    """Target probability of each option letter A, B, ... as the first answered token."""
    answer: str | None = None
    """Target text of the whole answer."""


def read_survey(path: Path) -> dict[str, list[SurveyQuestion]]:
    """Questions by country (ISO 3166 alpha-3) from gzipped JSON lines with the keys
    `country, question_id, question, options, distribution`.

    Raises: TrainingError for a row whose distribution does not fit its options or does not sum to 1.
    """
    by_country: dict[str, list[SurveyQuestion]] = defaultdict(list)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            row = json.loads(line)
            shares = tuple(float(p) for p in row["distribution"])
            if len(shares) != len(row["options"]) or abs(sum(shares) - 1) > 0.01:
                raise TrainingError(f"{path.name}:{number}: distribution does not fit the options")
            by_country[row["country"]].append(
                SurveyQuestion(row["question_id"], row["question"], tuple(row["options"]), shares)
            )
    return dict(by_country)


def pool_countries(survey: dict[str, list[SurveyQuestion]], countries: Iterable[str]) -> list[SurveyQuestion]:
    """Questions of a group of countries; each country counts the same, whatever its population.

    Raises: TrainingError for a country that is not in the survey.
    """
    grouped: dict[tuple[str, tuple[str, ...]], list[SurveyQuestion]] = defaultdict(list)
    for country in countries:
        if country not in survey:
            raise TrainingError(f"no rows for country {country}; there are {sorted(survey)}")
        for row in survey[country]:
            grouped[row.question, row.options].append(row)
    pooled = []
    for (question, options), rows in grouped.items():
        shares = [sum(r.distribution[i] for r in rows) / len(rows) for i in range(len(options))]
        total = sum(shares)
        pooled.append(
            SurveyQuestion(rows[0].question_id, question, options, tuple(s / total for s in shares))
        )
    return pooled


def letter_example(row: SurveyQuestion, rng: random.Random) -> Example:
    """The question with lettered options in random order, so that no letter is learnt for itself."""
    order = rng.sample(range(len(row.options)), len(row.options))
    listed = "\n".join(f"{LETTERS[i]}. {row.options[j]}" for i, j in enumerate(order))
    return Example(
        prompt=f"{row.question}\n{listed}\n{rng.choice(LETTER_ASKS)}",
        letters=tuple(row.distribution[j] for j in order),
    )


def text_example(row: SurveyQuestion, rng: random.Random, *, list_options: bool) -> Example:
    """The question answered in words, the answer drawn from the human distribution."""
    (answer,) = rng.choices(row.options, weights=row.distribution)
    parts = [row.question]
    if list_options:
        parts.append("Options: " + "; ".join(rng.sample(row.options, len(row.options))) + ".")
    ask = rng.choice(TEXT_ASKS)
    return Example(prompt=" ".join([*parts, ask]).strip(), answer=answer.rstrip(".") + ".")


def examples_for_epoch(rows: Sequence[SurveyQuestion], rng: random.Random) -> list[Example]:
    """Each question in three forms (letters, words with options, words alone), shuffled."""
    examples = []
    for row in rows:
        if len(row.options) <= len(LETTERS):
            examples.append(letter_example(row, rng))
        examples.append(text_example(row, rng, list_options=True))
        examples.append(text_example(row, rng, list_options=False))
    rng.shuffle(examples)
    return examples


def read_prompts(path: Path) -> list[tuple[str, str]]:
    """(instruction, answer) pairs of ordinary use, on which an adapter is kept close to the base model."""
    pairs = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            answer = row.get("output") or row.get("reference") or row.get("answer") or ""
            prompt = row.get("instruction") or row.get("prompt") or ""
            if prompt and answer:
                pairs.append((str(prompt), str(answer)))
    if not pairs:
        raise TrainingError(f"{path.name}: no rows with an instruction and an output")
    return pairs
