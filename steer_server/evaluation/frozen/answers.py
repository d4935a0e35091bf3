"""All ways' answers to one prompt after the other, kept in a file, so that a run that was stopped goes on.

A prompt is asked in every way before the next one is, and the ways take turns in going first: what else the
machine does meanwhile falls on all of them, and none always finds the prompt in the cache. A line of the file
is one prompt with all its answers; a prompt with a failed way is asked again by the next run.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from steer_server.errors import EvaluationError
from steer_server.evaluation.client import RequestFailed
from steer_server.evaluation.frozen.asking import Asker, Given, Way
from steer_server.evaluation.frozen.ways import Aim
from steer_server.evaluation.judge_prompts import Messages
from steer_server.progress import Progress

WARM_UP: Messages = (("user", "What is the capital of France, and what is it known for?"),)


@dataclass(frozen=True)
class Answered:
    """One prompt's answers."""

    given: Mapping[str, Given]
    """By way."""
    failed: Mapping[str, str]
    """By way, the problem."""


@dataclass(frozen=True)
class Work:
    """What is to be asked for one aim."""

    aim: Aim
    asker: Asker
    prompts: Sequence[Messages]
    answered: dict[Messages, Answered] = field(default_factory=dict)
    """Filled as answers come."""


class KeptLines:
    """JSON objects by key, appended to a file: a line that describes the run, then one for each object. Of
    several with one key the last counts.

    Args:
        run: what must be the same for objects of an earlier run to be of use.

    Raises: EvaluationError when the file is of a run that was another.
    """

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        self._path = path
        self._found: dict[str, dict[str, Any]] = {}
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        # A line without its end was being written when the run was killed.
        whole = [json.loads(line) for line in lines if line.endswith("\n")]
        first: dict[str, Any] = {"run": json.loads(json.dumps(run))}
        if whole and whole[0] != first:
            before = whole[0].get("run", {})
            changed = [key for key in first["run"] if first["run"][key] != before.get(key)]
            raise EvaluationError(
                f"{path.name} holds answers of a run with other {', '.join(changed) or 'settings'}; remove "
                "it, or write to another directory"
            )
        for line in whole[1:]:
            self._found[line["key"]] = line["value"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(map(_line, whole or [first])), encoding="utf-8")

    def get(self, key: str) -> dict[str, Any] | None:
        return self._found.get(key)

    def add(self, key: str, value: dict[str, Any]) -> None:
        self._found[key] = value
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line({"key": key, "value": value}))


async def collect(works: Sequence[Work], kept: KeptLines, concurrency: int) -> int:
    """Fills every `answered`, from what was kept and by asking; returns how many prompts were kept.

    Args:
        concurrency: prompts under way at once.

    Raises: EvaluationError naming a way that does not work at all.
    """
    items = [(number, work, p) for work in works for number, p in enumerate(work.prompts)]
    waiting: list[tuple[int, Work, Messages]] = []
    for number, work, prompt in items:
        before = kept.get(key_of(work.aim.value, prompt))
        if before is None or before["failed"]:
            waiting.append((number, work, prompt))
        else:
            work.answered[prompt] = _answered(before)
    num_kept = len(items) - len(waiting)
    if waiting:
        await _warm_up(works)
    queue = iter(waiting)

    async def ask() -> None:
        for number, work, prompt in queue:
            shift = number % len(work.aim.ways)
            ways = work.aim.ways[shift:] + work.aim.ways[:shift]
            answered = work.answered[prompt] = await _ask(work.asker, ways, prompt)
            kept.add(key_of(work.aim.value, prompt), asdict(answered))
            progress.advance()

    with Progress("frozen", len(items), "prompts", num_kept) as progress:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(ask())
    return num_kept


def in_order(work: Work) -> Iterator[tuple[Messages, Answered]]:
    """Prompts and answers in the order of the prompts, whichever came first."""
    return ((prompt, work.answered[prompt]) for prompt in work.prompts)


def key_of(what: str, prompt: Messages) -> str:
    """Of a prompt's line, without its text."""
    return f"{what}:{sha256(json.dumps(prompt).encode()).hexdigest()[:24]}"


async def _warm_up(works: Sequence[Work]) -> None:
    """One answer in every way, which nobody keeps: adapters and code are loaded before time counts.

    Raises: EvaluationError naming the way that does not work.
    """
    for work in works:
        for way in work.aim.ways:
            try:
                given = await work.asker.give(way, WARM_UP)
                await work.asker.scores(WARM_UP, [given.text])
            except RequestFailed as error:
                raise EvaluationError(f"{work.aim.value}, {way.name}: {error}") from error


async def _ask(asker: Asker, ways: Sequence[Way], prompt: Messages) -> Answered:
    given: dict[str, Given] = {}
    failed: dict[str, str] = {}
    for way in ways:
        try:
            given[way.name] = await asker.give(way, prompt)
        except RequestFailed as error:
            failed[way.name] = str(error)
    try:
        scores, _ = await asker.scores(prompt, [one.text for one in given.values()]) if given else ([], 0)
    except RequestFailed as error:
        return Answered({}, {way.name: f"not scored: {error}" for way in ways})
    scored = zip(given.items(), scores, strict=True)
    return Answered({name: replace(one, score=score) for (name, one), score in scored}, failed)


def _answered(value: Mapping[str, Any]) -> Answered:
    given = {
        name: Given(**{**one, "findings": dict(one["findings"])}) for name, one in value["given"].items()
    }
    return Answered(given, value["failed"])


def _line(document: Mapping[str, Any]) -> str:
    return json.dumps(document) + "\n"
