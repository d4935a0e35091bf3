"""`eval ability`: does the model still write plain prose and know what all know, under every setting?

perplexity  exp(-Σ log p / tokens) of neutral passages, each as a plain completion prompt; its first token is
            given and not counted. 1 is certainty; the ratio to the base's is what steering costs
letters     share of easy questions where the right option's letter is the likeliest, averaged over option
            orders in which each option has each letter once (answers.py)
words       the same where options are not shown: `log p(option's words, full stop, end of turn | question)`

Chance is 0.25 by either readout. Not covered: reasoning, instructions, long answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx

from steer_server.errors import EvaluationError
from steer_server.evaluation.ability.common_knowledge import QUESTIONS, KnowledgeQuestion
from steer_server.evaluation.ability.neutral_text import PASSAGES
from steer_server.evaluation.ability.report import ability_table, sections, topic_table
from steer_server.evaluation.ability.scores import TextScore, score
from steer_server.evaluation.answers import Answer, Reader, Setting
from steer_server.evaluation.client import RequestFailed, ServerClient, ServerInfo
from steer_server.evaluation.html import write_all
from steer_server.evaluation.named_settings import (
    BASE,
    axes_alone,
    blended_cultures,
    cultures_alone,
    parse_settings,
    read_plans,
)
from steer_server.evaluation.report import Results
from steer_server.progress import Progress

T = TypeVar("T")

ROTATIONS = tuple(tuple((shift + place) % 4 for place in range(4)) for shift in range(4))
"""Orders of four options in which each has each place once."""


@dataclass(frozen=True)
class AbilityOptions:
    url: str
    api_key: str = ""
    settings: tuple[str, ...] = ()
    """`NAME=JSON`; empty for every culture at weight 1, every value axis alone and a blend of three cultures.
    The base is always measured."""
    seed: int = 20261121
    """Of resamples."""
    concurrency: int = 16
    limit: int = 0
    """At most so many passages and so many questions, spread over topics; 0 for all."""


@dataclass
class Measured:
    """What was answered, by setting and then by index; what failed is not there."""

    texts: dict[str, dict[int, TextScore]] = field(default_factory=dict)
    letters: dict[str, dict[int, Answer]] = field(default_factory=dict)
    words: dict[str, dict[int, Answer]] = field(default_factory=dict)


def evaluate_ability(options: AbilityOptions, out: Path) -> None:
    """Measures, prints tables and one line of JSON, and writes `out/report.json` and `out/report.html`.

    Raises: EvaluationError, for too many failed requests only after the reports are written.
    """
    results, client = asyncio.run(run_ability(options))
    tables = [ability_table(results), topic_table(results)]
    write_all(out, "General ability under steering", results, sections(results), tables)
    print(json.dumps(results["headline"]))
    what, num_dropped = max(results["dropped"].items(), key=lambda item: item[1])
    client.check_failures(num_dropped, results["data"]["passages" if what == "passages" else "questions"])


async def run_ability(
    options: AbilityOptions, transport: httpx.AsyncBaseTransport | None = None
) -> tuple[Results, ServerClient]:
    """Asks, and returns the results and the client, which knows what failed.

    Raises: EvaluationError when the server does not answer, a setting is refused or nothing was answered.
    """
    passages, questions = _spread(PASSAGES, options.limit), _spread(QUESTIONS, options.limit)
    async with ServerClient(options.url, options.api_key, options.concurrency, transport) as client:
        info = await client.info()
        settings = chosen_settings(options, info)
        plans = await read_plans(client, settings)
        measured = await _measure(Reader(client, info.model), settings, passages, questions)
        try:
            scored = score(
                [setting.name for setting in settings],
                questions,
                measured.texts,
                {"letters": measured.letters, "words": measured.words},
                len(passages),
                options.seed,
            )
        except EvaluationError:
            client.check_failures()  # Says why nothing was answered.
            raise
    results: Results = {
        "data": {"passages": len(passages), "questions": len(questions), "seed": options.seed},
        "settings": {s.name: {**s.steering(), "plan": plans[s.name]} for s in settings},
        **scored,
    }
    return results | {"server": info.describe(), "requests": client.describe()}, client


def chosen_settings(options: AbilityOptions, info: ServerInfo) -> list[Setting]:
    """The base and what is compared with it.

    Raises: EvaluationError for a bad one.
    """
    given = parse_settings(options.settings, taken=(BASE.name,))
    offered = [*cultures_alone(info), *axes_alone(info), *blended_cultures(info)]
    # A value axis may have a culture's name.
    names = [BASE.name, *(setting.name for setting in given or offered)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise EvaluationError(f"two settings would have the name {', '.join(twice)}; name them by --setting")
    return [BASE, *(given or offered)]


async def read_text(reader: Reader, setting: Setting, text: str) -> TextScore:
    """How likely a plain text is.

    Raises: RequestFailed.
    """
    tokens = await reader.tokens({"prompt": text})
    (log_prob,) = await reader.answer_log_probs(setting, tokens[:1], [tokens[1:]])
    return TextScore(log_prob, len(tokens) - 1)


async def _measure(
    reader: Reader,
    settings: Sequence[Setting],
    passages: Sequence[str],
    questions: Sequence[KnowledgeQuestion],
) -> Measured:
    measured = Measured()
    for by_setting in (measured.texts, measured.letters, measured.words):
        by_setting.update((setting.name, {}) for setting in settings)

    async def ask(item: tuple[Setting, str, int]) -> None:
        setting, what, index = item
        with contextlib.suppress(RequestFailed):  # Recorded; left out of every setting's row and counted.
            if what == "text":
                measured.texts[setting.name][index] = await read_text(reader, setting, passages[index])
            elif what == "letters":
                question = questions[index]
                answer = await reader.letters(setting, question.text, question.options, ROTATIONS)
                measured.letters[setting.name][index] = answer
            else:
                question = questions[index]
                measured.words[setting.name][index] = await reader.words(
                    setting, question.text, question.options
                )
        progress.advance()

    kinds = {"text": len(passages), "letters": len(questions), "words": len(questions)}
    cells = [(setting, what, i) for setting in settings for what, num in kinds.items() for i in range(num)]
    with Progress("ability", len(cells), "texts and questions") as progress:
        await reader.client.for_each(cells, ask)
    return measured


def _spread(items: Sequence[T], limit: int) -> list[T]:
    """At most `limit` items, evenly spaced; all of them for 0."""
    if not limit or limit >= len(items):
        return list(items)
    return [items[i * len(items) // limit] for i in range(limit)]
