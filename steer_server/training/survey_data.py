"""Survey questions with people's answer shares, and the chats in which they are asked."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import random
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steer_server.errors import TrainingError
from steer_server.training.example import Example
from steer_server.training.ordinary import ORDINARY

GZIP_MAGIC = b"\x1f\x8b"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

LETTER_ASKS = (
    "Answer with one letter.",
    "Which option do you choose? Reply with the letter only.",
    "Give the letter of your answer.",
)
TEXT_ASKS = (
    "",
    "What is your own view?",
    "Please answer for yourself, in a few words.",
    "What would you say?",
)


@dataclass(frozen=True)
class SurveyQuestion:
    """One question and how people answered it."""

    question_id: str
    question: str
    options: tuple[str, ...]
    distribution: tuple[float, ...]
    """Share of people per option, sums to 1."""


def read_survey(path: Path) -> dict[str, list[SurveyQuestion]]:
    """Questions by country or community.

    Two formats, gzipped or not: JSON lines with the keys `country, question_id, question, options,
    distribution`; or a CSV (`.csv`) with the columns `country, question, option, share`, one line per option,
    in which `share` may also be a count of people.

    Raises: TrainingError for a row that is not as above, with its line.
    """
    by_country: dict[str, list[SurveyQuestion]] = defaultdict(list)
    rows = _csv_rows(path) if ".csv" in path.suffixes else json_rows(path)
    for where, row in rows:
        try:
            question = SurveyQuestion(
                str(row["question_id"]),
                str(row["question"]),
                tuple(str(option) for option in row["options"]),
                tuple(_share(share) for share in row["distribution"]),
            )
            by_country[str(row["country"])].append(question)
        except (KeyError, TypeError, ValueError) as error:
            raise TrainingError(f"{where}: {type(error).__name__} {error}") from error
        total = sum(question.distribution)
        if len(question.distribution) != len(question.options) or abs(total - 1) > 0.01:
            raise TrainingError(f"{where}: distribution needs one share per option, and shares that sum to 1")
    if not by_country:
        raise TrainingError(f"{path.name}: no rows")
    return dict(by_country)


def _share(value: Any) -> float:
    share = float(value)
    if not (math.isfinite(share) and share >= 0):
        raise ValueError(f"{value} is no share of people; give a number of at least 0, or leave the row out")
    return share


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if raw.startswith(GZIP_MAGIC) else raw).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: {error}") from error


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(`file:line`, object) of JSON lines, gzipped or not; blank lines are skipped.

    Raises: TrainingError for a file that cannot be read, or a line that is no JSON.
    """
    # Not `splitlines`, which also ends lines at U+2028, U+0085 and others that JSON strings may hold.
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            try:
                yield f"{path.name}:{number}", json.loads(line)
            except ValueError as error:
                raise TrainingError(f"{path.name}:{number}: not JSON: {error}") from error


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(_text(path)))
    if missing := {"country", "question", "option", "share"} - set(reader.fieldnames or ()):
        raise TrainingError(f"{path.name}: no column {', '.join(sorted(missing))}")
    grouped: dict[tuple[str, str], list[tuple[str, float]]] = defaultdict(list)
    for number, row in enumerate(reader, 2):
        try:
            grouped[row["country"], row["question"]].append((row["option"], _share(row["share"])))
        except (TypeError, ValueError) as error:
            raise TrainingError(f"{path.name}:{number}: share: {error}") from error
    for (country, question), answers in grouped.items():
        total = sum(share for _, share in answers)
        if total <= 0:
            raise TrainingError(f"{path.name}: {question!r} of {country}: the shares sum to {total}")
        yield (
            f"{path.name}: {question!r}",
            {
                "country": country,
                "question_id": question,
                "question": question,
                "options": [option for option, _ in answers],
                "distribution": [share / total for _, share in answers],
            },
        )


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


def split_questions(
    rows: Sequence[SurveyQuestion], held_out_share: float, seed: int
) -> tuple[list[SurveyQuestion], list[SurveyQuestion]]:
    """(training, held out) by question, the same questions held out for every culture with that seed."""

    def is_held_out(row: SurveyQuestion) -> bool:
        return random.Random(f"{seed}:{row.question_id}").random() < held_out_share

    return [r for r in rows if not is_held_out(r)], [r for r in rows if is_held_out(r)]


def letter_example(row: SurveyQuestion, order: Sequence[int], ask: str = LETTER_ASKS[0]) -> Example:
    """The question with its options lettered in the given order, answered with a letter."""
    listed = "\n".join(f"{LETTERS[i]}. {row.options[j]}" for i, j in enumerate(order))
    return Example(
        prompt=f"{row.question}\n{listed}\n{ask}",
        answers=tuple(LETTERS[: len(order)]),
        shares=tuple(row.distribution[j] for j in order),
        is_whole=False,
    )


def words_example(row: SurveyQuestion, listed: Sequence[int] = (), ask: str = "") -> Example:
    """The question answered with an option's own words; `listed` is the order of the options in the prompt,
    empty when they are not named."""
    parts = [row.question]
    if listed:
        parts.append("Options: " + "; ".join(row.options[j] for j in listed) + ".")
    return Example(
        prompt=" ".join([*parts, ask]).strip(),
        answers=tuple(option.rstrip(".") + "." for option in row.options),
        shares=row.distribution,
        is_whole=True,
    )


def random_example(row: SurveyQuestion, letters_share: float, rng: random.Random) -> Example:
    """The question in a random form: option order, wording of the ask, letters or words, options listed or
    not. So what is learnt is the answer and not its letter or place. Two orders in three are the survey's own
    or its reverse, in which scales make sense; the third is any."""
    natural = list(range(len(row.options)))
    order = rng.choice((natural, natural[::-1], rng.sample(natural, len(natural))))
    if len(order) <= len(LETTERS) and rng.random() < letters_share:
        return letter_example(row, order, rng.choice(LETTER_ASKS))
    return words_example(row, order if rng.random() < 0.5 else (), rng.choice(TEXT_ASKS))


class SurveyBatches:
    """Batches by step number: every epoch asks every question once, in a new random form.

    Batches hold examples of similar length, so that little is padding, and come in random order.
    """

    def __init__(
        self,
        rows: Sequence[SurveyQuestion],
        batch_size: int,
        letters_share: float,
        seed: int,
        num_tokens: Callable[[Example], int],
    ) -> None:
        self.rows, self.batch_size, self.letters_share, self.seed = rows, batch_size, letters_share, seed
        self.num_tokens = num_tokens
        self.steps_per_epoch = max(1, -(-len(rows) // batch_size))
        self._epoch: int | None = None
        self._batches: list[list[Example]] = []

    def __getitem__(self, step: int) -> list[Example]:
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            rng = random.Random(f"{self.seed}:{epoch}")
            examples = [random_example(row, self.letters_share, rng) for row in self.rows]
            examples.sort(key=self.num_tokens)
            size = self.batch_size
            self._batches = [examples[i : i + size] for i in range(0, len(examples), size)]
            rng.shuffle(self._batches)
            self._epoch = epoch
        return self._batches[index]


def read_prompts(path: Path | None) -> list[Example]:
    """Ordinary prompts with an answer each, on which an adapter is kept close to the base model; without a
    path, those of `ordinary.py`.

    Raises: TrainingError when no row has an instruction and an output.
    """
    pairs = list(ORDINARY)
    if path is not None:
        pairs = [
            (str(prompt), str(answer))
            for _, row in json_rows(path)
            if (prompt := row.get("instruction") or row.get("prompt"))
            and (answer := row.get("output") or row.get("reference") or row.get("answer"))
        ]
    if not pairs:
        raise TrainingError(f"{path}: no rows with an instruction and an output")
    return [Example(prompt, (answer,), (1.0,), is_whole=True) for prompt, answer in pairs]


def shortened(ordinary: Example) -> Example:
    """An ordinary prompt and its answer as far as training reads them."""
    return replace(
        ordinary, prompt=ordinary.prompt[:400], answers=tuple(answer[:300] for answer in ordinary.answers)
    )
