"""`eval norms`: is what a story describes acceptable? Accuracy of a running server's judgement, by country.

A judgement is the label with the largest share, averaged over option orders (answers.py, by letters); a tie
is wrong.

majority    the most frequent label of the file's stories               no model
words       a bag of words, trained on other countries                  no model: what the wording gives away
word pairs  a stronger one, with pairs of words                         no model
base        the model, not steered, not told the country
country     the model, told the country
rule        the model, given the rule of thumb in place of the country
own         steered with the culture that lists the country, not told the country
base (own)  base on the stories of these countries only, to compare own with; so for the other rows
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from steer_server.errors import EvaluationError
from steer_server.evaluation.answers import Answer, Reader, Setting
from steer_server.evaluation.client import RequestFailed, ServerClient
from steer_server.evaluation.countries import alpha_3, country_name
from steer_server.evaluation.html import write_all
from steer_server.evaluation.named_settings import BASE, read_plans
from steer_server.evaluation.norms.data import (
    LABELS,
    Story,
    read_stories,
    sample_by_country,
    word_baselines,
)
from steer_server.evaluation.norms.report import accuracy_table, country_table, sections
from steer_server.evaluation.report import Results
from steer_server.evaluation.survey.plan import own_cultures
from steer_server.progress import Progress

OPTIONS = ("Yes", "No", "Neutral")
"""In the order of `LABELS`."""
TIED = "tied"
"""The judgement that is wrong whatever people say."""


@dataclass(frozen=True)
class NormsOptions:
    url: str
    data: Path
    known: Path | None = None
    """Stories that training may have seen, for the baselines of words to learn from too."""
    api_key: str = ""
    seed: int = 20261121
    concurrency: int = 16
    orders: int = 3
    """Option orders, of which the first three put every label in every place once."""
    cultures: tuple[str, ...] = ()
    """Only these; empty for all."""
    steered_only: bool = False
    """Ask only about stories of countries that a culture lists; the baselines of words learn from all."""
    limit: int = 0
    """At most so many stories, spread over countries; 0 for all."""


def evaluate_norms(options: NormsOptions, out: Path) -> None:
    """Measures, prints tables and one line of JSON, and writes `out/report.json` and `out/report.html`.

    Raises: EvaluationError, for too many failed requests only after the reports are written.
    """
    results, client = asyncio.run(run_norms(options))
    tables = [accuracy_table(results), country_table(results, all_countries=False)]
    write_all(out, "Norms: judgements of social stories", results, sections(results), tables)
    for remark in results["remarks"]:
        print(remark)
    print(json.dumps(results["headline"]))
    client.check_failures(results["num_dropped"], results["data"]["num_stories"])


async def run_norms(
    options: NormsOptions, transport: httpx.AsyncBaseTransport | None = None
) -> tuple[Results, ServerClient]:
    """Asks, and returns the results and the client, which knows what failed.

    Raises: EvaluationError when the server does not answer or nothing was answered.
    """
    every = read_stories(options.data)
    known = read_stories(options.known) if options.known else []
    async with ServerClient(options.url, options.api_key, options.concurrency, transport) as client:
        info = await client.info()
        own = own_cultures(info.cultures, options.cultures, {story.country for story in every})
        wanted = [i for i, s in enumerate(every) if s.country in own or not options.steered_only]
        sample = sample_by_country([every[i] for i in wanted], options.limit, options.seed)
        chosen = [wanted[i] for i in sample]
        if not chosen:
            raise EvaluationError(f"no story of {options.data.name} is of a country that a culture lists")
        stories = [every[i] for i in chosen]
        cultures = sorted(set(own.values()))
        plans = await read_plans(client, [BASE, *(Setting.of_blend(c, {c: 1.0}) for c in cultures)])
        settings = cells(stories, own)
        answers = await _ask(options, Reader(client, info.model), stories, settings)
        judged: dict[str, dict[int, str]] = {
            name: {i: judgement(answer) for i, answer in by_story.items()}
            for name, by_story in answers.items()
        }
        words = word_baselines(every, known)
        for name, labels in {"majority": majority_labels(every), **words}.items():
            judged[name] = {n: labels[i] for n, i in enumerate(chosen)}
        try:
            results = score(stories, own, judged, answers)
        except EvaluationError:
            client.check_failures()  # Says why nothing was judged.
            raise
        results["data"] = {
            "file": options.data.name,
            "baselines": _describe_words(options, len(every), len(known), has_words=bool(words)),
            "num_stories": len(stories),
            "num_stories_in_file": len(every),
            "seed": options.seed,
        }
        results["option_orders"] = options.orders
        results["plans"] = plans
        results["remarks"] = _remarks(stories, results["num_dropped"])
        return results | {"server": info.describe(), "requests": client.describe()}, client


def judgement(answer: Answer) -> str:
    """The label with the largest share, or `TIED`."""
    return TIED if answer.choice is None else LABELS[answer.choice]


def _describe_words(options: NormsOptions, num_own: int, num_known: int, *, has_words: bool) -> str:
    if not has_words:
        return (
            "No rows of words: the file has one country, and they learn from others; --known FILE has some."
        )
    learnt = f"Words learnt from the file's {num_own} stories"
    if options.known:
        return f"{learnt} and {num_known} of {options.known.name}."
    return f"{learnt} only; --known FILE adds those that were trained on."


def _remarks(stories: Sequence[Story], num_dropped: int) -> list[str]:
    found = []
    if unknown := sorted({story.country for story in stories if alpha_3(story.country) is None}):
        found.append(f"Not on the ISO list of countries, and named as in the file: {', '.join(unknown)}.")
    if num_dropped:
        found.append(f"{num_dropped} of {len(stories)} stories were left out, as a request failed.")
    return found


def majority_labels(stories: Sequence[Story]) -> list[str]:
    """The most frequent label of these, for every story."""
    ((label, _),) = Counter(story.label for story in stories).most_common(1)
    return [label] * len(stories)


def question_text(story: Story, setting: str) -> str:
    """What is asked of a story; only `country` names the country and only `rule` gives the rule of thumb."""
    where = f" in {country_name(story.country)}" if setting == "country" else ""
    rule = f"A rule of thumb: {story.rule_of_thumb}\n" if setting == "rule" else ""
    return f"{rule}{story.text}\nIs what is described socially acceptable{where}?"


def label_orders(num_orders: int, seed: str) -> list[list[int]]:
    """Orders of the three labels: a random one and its rotations, then the mirrored ones."""
    start = random.Random(seed).sample(range(3), 3)
    turns = [[start[(i + shift) % 3] for i in range(3)] for shift in range(3)]
    return [*turns, *(turn[::-1] for turn in turns)][:num_orders]


def cells(stories: Sequence[Story], own: Mapping[str, str]) -> list[tuple[str, Setting, int]]:
    """(row of the report, setting, index of the story) of all that is asked, culture by culture."""
    plain = [(name, BASE, i) for name in ("base", "country", "rule") for i in range(len(stories))]
    steered = [
        ("own", Setting.of_blend("own", {culture: 1.0}), i)
        for culture in sorted(set(own.values()))
        for i, story in enumerate(stories)
        if own.get(story.country) == culture
    ]
    return [*plain, *steered]


async def _ask(
    options: NormsOptions,
    reader: Reader,
    stories: Sequence[Story],
    asked: Sequence[tuple[str, Setting, int]],
) -> dict[str, dict[int, Answer]]:
    answers: dict[str, dict[int, Answer]] = {name: {} for name, _, _ in asked}

    async def ask(item: tuple[str, Setting, int]) -> None:
        name, setting, index = item
        story = stories[index]
        orders = label_orders(options.orders, f"{options.seed}:{story.text}")
        with contextlib.suppress(RequestFailed):  # Recorded; the story is left out of every row and counted.
            answer = await reader.letters(setting, question_text(story, name), OPTIONS, orders)
            answers[name][index] = answer
        progress.advance()

    with Progress("norms", len(asked), "judgements") as progress:
        await reader.client.for_each(asked, ask)
    return answers


def score(
    stories: Sequence[Story],
    own: Mapping[str, str],
    judged: Mapping[str, Mapping[int, str]],
    answers: Mapping[str, Mapping[int, Answer]],
) -> Results:
    """Accuracies, on stories that were judged in every row that asks them.

    Raises: EvaluationError when there is none.
    """
    by_country: dict[str, list[int]] = {}
    num_dropped = 0
    for i, story in enumerate(stories):
        asked = [name for name in judged if name != "own" or story.country in own]
        if all(i in judged[name] for name in asked):
            by_country.setdefault(story.country, []).append(i)
        else:
            num_dropped += 1
    if not by_country:
        raise EvaluationError("no story was judged under every setting")
    steered = {c: indices for c, indices in by_country.items() if c in own}

    def accuracies(name: str, countries: Mapping[str, Sequence[int]]) -> dict[str, float]:
        return {
            c: float(np.mean([judged[name][i] == stories[i].label for i in indices]))
            for c, indices in countries.items()
        }

    order = [n for n in ("majority", "words", "word pairs", "base", "country", "rule") if n in judged]
    rows = {name: _row(accuracies(name, by_country), by_country) for name in order}
    own_rows = {}
    if steered:
        own_rows = {name: _row(accuracies(name, steered), steered) for name in [*order, "own"]}
    kept = [i for indices in by_country.values() for i in indices]
    return {
        "rows": rows,
        "rows_of_steered_countries": own_rows,
        "num_dropped": num_dropped,
        "countries": {
            c: {
                "culture": own.get(c),
                "stories": len(by_country[c]),
                "accuracy": {
                    name: round(accuracies(name, {c: by_country[c]})[c], 4)
                    for name in ([*order, "own"] if c in own else order)
                },
            }
            for c in sorted(by_country)
        },
        "judged_as": {
            name: _shares([labels[i] for i in kept if i in labels]) for name, labels in judged.items()
        },
        "people": _shares([stories[i].label for i in kept]),
        "diagnostics": {
            name: {
                "answers": len(by_story),
                "mass": float(f"{np.mean([a.mass for a in by_story.values()]):.4g}"),
                "missing_letters": sum(a.num_missing for a in by_story.values()),
            }
            for name, by_story in answers.items()
            if by_story
        },
        "headline": {
            **{f"{name}_accuracy": row["accuracy"] for name, row in rows.items()},
            "steered_countries": len(steered),
            **{f"steered_countries_{name}_accuracy": own_rows[name]["accuracy"] for name in own_rows},
            **({"own_worst_country_accuracy": own_rows["own"]["worst_accuracy"]} if own_rows else {}),
        },
    }


def _row(accuracies: Mapping[str, float], indices: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """`accuracy` counts stories, `country_mean` countries; the standard error is of `accuracy`, binomial."""
    num = sum(len(indices[c]) for c in accuracies)
    accuracy = sum(accuracies[c] * len(indices[c]) for c in accuracies) / num
    worst = min(accuracies, key=lambda c: accuracies[c])
    return {
        "accuracy": round(accuracy, 4),
        "standard_error": round(float(np.sqrt(accuracy * (1 - accuracy) / num)), 4),
        "country_mean": round(float(np.mean(list(accuracies.values()))), 4),
        "worst_accuracy": round(accuracies[worst], 4),
        "worst_country": worst,
        "stories": num,
    }


def _shares(labels: Sequence[str]) -> dict[str, float]:
    counts = Counter(labels)
    return {label: round(counts[label] / max(1, len(labels)), 4) for label in LABELS}
