"""Judgements and choices as rows, read from data sets and from a newcomer's own tables, and their split.

A row says how acceptable one answer is (`other` is None), or how many people prefer `answer` to `other`.
Every unit (a country, a post, a prompt) lies in one part only: steer, judge or test.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from steer_server.errors import TrainingError

Part = Literal["steer", "judge", "test"]


@dataclass(frozen=True)
class Row:
    unit: str
    """What is never split."""
    group: str
    """Who judges, or where the row comes from: what a head is made for and robust over."""
    messages: tuple[tuple[str, str], ...]
    """(role, content) of what comes before the answer."""
    answer: str
    other: str | None
    """The answer that it is compared with."""
    target: float
    """0..1: acceptable, or share of people who prefer `answer`; 0.5 is neutral or a tie."""


def read_rows(reader: str, path: Path) -> list[Row]:
    """Rows of one file.

    Args:
        reader: a key of READERS.

    Raises: TrainingError for an unknown reader, a file without rows, or a row that lacks a field.
    """
    if reader not in READERS:
        raise TrainingError(f"no reader {reader!r}; there are {sorted(READERS)}")
    rows: list[Row] = []
    try:
        for number, record in enumerate(_records(path), 1):
            try:
                rows.extend(READERS[reader](record))
            except (KeyError, ValueError, TypeError) as error:
                raise TrainingError(f"{path.name}: row {number}: {type(error).__name__} {error}") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise TrainingError(f"cannot read {path}: {error}") from error
    if not rows:
        raise TrainingError(f"{path.name}: no rows")
    return rows


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """Records of `.csv` or JSON lines, gzipped or not."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        if ".csv" in path.suffixes:
            yield from csv.DictReader(lines)
        else:
            yield from (json.loads(line) for line in lines if line.strip())


def _user(content: str) -> tuple[tuple[str, str], ...]:
    return (("user", content),)


ASK_FOR_BEHAVIOUR = "Describe how people behave."
ASK_FOR_POST = "Write a post."
"""Stand-ins for the missing question when the text itself is what is judged."""


def _normad(record: Mapping[str, Any]) -> Iterator[Row]:
    target = {"yes": 1.0, "neutral": 0.5, "no": 0.0}[record["label"]]
    yield Row(record["country"], record["country"], _user(ASK_FOR_BEHAVIOUR), record["story"], None, target)


def _crehate(record: Mapping[str, Any]) -> Iterator[Row]:
    for country, is_hate in record["labels"].items():
        yield Row(record["id"], country, _user(ASK_FOR_POST), record["text"], None, 1.0 - int(is_hate))


def _hh(record: Mapping[str, Any]) -> Iterator[Row]:
    chosen, rejected = _dialogue(record["chosen"]), _dialogue(record["rejected"])
    if chosen[:-1] != rejected[:-1] or chosen[-1][0] != "assistant" or rejected[-1][0] != "assistant":
        return  # A few dialogues part before the last turn; those are not two answers to one question.
    messages, first = tuple(chosen[:-1]), next(content for role, content in chosen if role == "user")
    yield Row(first, "hh_harmless", messages, chosen[-1][1], rejected[-1][1], 1.0)


def _dialogue(text: str) -> list[tuple[str, str]]:
    """(role, content) turns of `\\n\\nHuman: … \\n\\nAssistant: …`."""
    turns: list[tuple[str, str]] = []
    for part in text.split("\n\n"):
        for mark, role in (("Human:", "user"), ("Assistant:", "assistant")):
            if part.startswith(mark):
                turns.append((role, part.removeprefix(mark).strip()))
                break
        else:
            if turns:
                turns[-1] = (turns[-1][0], f"{turns[-1][1]}\n\n{part}")
    return turns


def _pku(record: Mapping[str, Any]) -> Iterator[Row]:
    safer, unsafe = record["response"]
    yield Row(record["prompt"], "pku_safe", _user(record["prompt"]), safer, unsafe, 1.0)


def _pandalm(record: Mapping[str, Any]) -> Iterator[Row]:
    prompt = "\n\n".join(part for part in (record["instruction"], record["input"]) if part)
    share = sum({1: 1.0, 2: 0.0, 0: 0.5}[record[f"annotator{i}"]] for i in (1, 2, 3)) / 3
    yield Row(prompt, "pandalm", _user(prompt), record["response1"], record["response2"], share)


def _autoj(record: Mapping[str, Any]) -> Iterator[Row]:
    share = {0: 1.0, 1: 0.0, 2: 0.5}[record["label"]]
    prompt = record["prompt"]
    yield Row(prompt, "autoj", _user(prompt), record["response 1"], record["response 2"], share)


def _persona(record: Mapping[str, Any]) -> Iterator[Row]:
    answer, other = record["answer_matching_behavior"], record["answer_not_matching_behavior"]
    question = record["question"]
    yield Row(question, "persona", _user(question), answer.strip(), other.strip(), 1.0)


def _judgements(record: Mapping[str, Any]) -> Iterator[Row]:
    label = float(record["label"])
    if not 0 <= label <= 1:
        raise ValueError(f"label {label} is not within 0..1")
    unit, group = record["prompt"] or record["answer"], record.get("group") or ""
    yield Row(unit, group, _user(record["prompt"]), record["answer"], None, label)


def _choices(record: Mapping[str, Any]) -> Iterator[Row]:
    prompt = record["prompt"]
    yield Row(prompt, record.get("group") or "", _user(prompt), record["chosen"], record["rejected"], 1.0)


def _rewrites(record: Mapping[str, Any]) -> Iterator[Row]:
    prompt, rewrite = record["final_input"], record["final_output"]
    yield Row(prompt, "rewrites", _user(prompt), rewrite, None, 1.0)


def _instructions(record: Mapping[str, Any]) -> Iterator[Row]:
    prompt, answer = record["instruction"], record["reference"]
    yield Row(prompt, "instructions", _user(prompt), answer, None, 1.0)


READERS: Mapping[str, Callable[[Mapping[str, Any]], Iterator[Row]]] = {
    "normad": _normad,
    "crehate": _crehate,
    "hh": _hh,
    "pku": _pku,
    "pandalm": _pandalm,
    "autoj": _autoj,
    "persona": _persona,
    "judgements": _judgements,
    "choices": _choices,
    "rewrites": _rewrites,
    "instructions": _instructions,
}
"""By name in a recipe. `judgements` reads columns prompt, answer, label (0..1); `choices` prompt, chosen,
rejected; both may have a column group. The answers of `rewrites` are rewrites of the prompts."""


def assign_parts(
    rows: Sequence[Row], head_of_group: Mapping[str, str], test_share: float, judge_share: float, seed: int
) -> dict[str, Part]:
    """The part of every unit: the same for every head, independent of the order of rows.

    Units are drawn within each set of heads that they bear on, so that a head whose groups are few countries
    has some of them in every part: of three or more units at least one each.
    """
    parts: dict[str, Part] = {}
    for units in _strata(rows, head_of_group, seed):
        least = 1 if len(units) >= 3 else 0
        num_test = max(least, round(test_share * len(units)))
        num_judge = max(least, round(judge_share * len(units)))
        for i, unit in enumerate(units):
            parts[unit] = "test" if i < num_test else "judge" if i < num_test + num_judge else "steer"
    return parts


def assign_folds(
    rows: Sequence[Row], head_of_group: Mapping[str, str], num_folds: int, seed: int
) -> dict[str, int]:
    """The fold of every unit, so that each set of heads has its units spread over the folds."""
    ordered = [unit for units in _strata(rows, head_of_group, seed) for unit in units]
    return {unit: i % num_folds for i, unit in enumerate(ordered)}


def _strata(rows: Sequence[Row], head_of_group: Mapping[str, str], seed: int) -> list[list[str]]:
    """Units by the set of heads that they bear on, each in an order drawn by `seed`."""
    heads_of_unit: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        heads_of_unit[row.unit].add(head_of_group.get(row.group, ""))
    strata: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for unit in sorted(heads_of_unit, key=lambda u: hashlib.sha256(f"{seed}:{u}".encode()).digest()):
        strata[tuple(sorted(heads_of_unit[unit]))].append(unit)
    return [strata[heads] for heads in sorted(strata)]
