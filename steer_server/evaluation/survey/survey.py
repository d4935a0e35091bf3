"""`eval survey`: how far a running server's answers to a survey are from people's, country by country.

Each culture is asked each question once; a country's score is the mean over its questions of the divergence
between the model's distribution and its people's. Scores of a setting: mean over the countries of a culture,
then over cultures, and the worst country beside it.

uniform  every option equally often                     no model
table    mean of the country's trained questions with   no model
         the same options
pooled   mean of the other countries' people            no model, but other people's answers
base     the model, not steered
prompt   the model, told to be a person of the country
own      steered with the culture that lists the country
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from steer_server.errors import EvaluationError
from steer_server.evaluation.answers import Answer, Answers, Key, Reader, Readout, Setting, option_orders
from steer_server.evaluation.client import Culture, RequestFailed, ServerClient
from steer_server.evaluation.countries import country_name
from steer_server.evaluation.html import write_all
from steer_server.evaluation.report import Results
from steer_server.evaluation.survey.blends import blend_settings, most_different_pairs, score_blends
from steer_server.evaluation.survey.report import country_table, mean_table, sections
from steer_server.evaluation.survey.scores import FIXED_ROWS, SurveyScores
from steer_server.progress import Progress
from steer_server.training.survey_data import LETTERS, SurveyQuestion, read_survey, split_questions

BASE = Setting("base")


@dataclass(frozen=True)
class SurveyOptions:
    url: str
    data: Path
    api_key: str = ""
    questions: str = "held-out"
    """`held-out`: those that training with this seed and share holds out; or `all`."""
    seed: int = 20261121
    held_out_share: float = 0.2
    concurrency: int = 16
    orders: int = 2
    """Option orders of the letters readout: natural, reversed, then random."""
    cultures: tuple[str, ...] = ()
    """Only these; empty for all."""
    readouts: tuple[Readout, ...] = ("letters", "words")
    pairs: int = 3
    """Pairs of cultures, the most different first, that are blended."""
    limit: int = 0
    """Only so many questions, spread over the survey; 0 for all."""


@dataclass
class SurveyRun:
    """Everything that was asked and answered."""

    cultures: dict[str, Culture]
    own: dict[str, str]
    """By `own_cultures`."""
    people: dict[str, dict[Key, SurveyQuestion]]
    """Country -> its questions; also countries that no culture lists."""
    asked: list[Key]
    """Questions of the countries in `own`."""
    trained: dict[str, list[SurveyQuestion]]
    """By country, the questions that training sees."""
    answers: dict[Readout, Answers]
    num_left_out: int
    """Questions with fewer than two options or more than there are letters."""
    pairs: list[tuple[str, str]] = field(default_factory=list)


def evaluate_survey(options: SurveyOptions, out: Path) -> None:
    """Measures, prints tables and one line of JSON, and writes `out/report.json` and `out/report.html`.

    Raises: EvaluationError, for too many failed requests only after the reports are written.
    """
    results, client = asyncio.run(run_survey(options))
    tables = [mean_table(results), *(country_table(results, readout) for readout in options.readouts)]
    write_all(out, "Survey: distance from people's answers", results, sections(results), tables)
    print(json.dumps(results["headline"]))
    client.check_failures()


def prompt_of(country: str) -> str:
    """The system prompt of the baseline without adapters."""
    name = country_name(country)
    return (
        f"You are a person living in {name}. Answer the question as a typical person living in {name} would."
    )


async def run_survey(
    options: SurveyOptions, transport: httpx.AsyncBaseTransport | None = None
) -> tuple[Results, ServerClient]:
    """Asks, and returns `(results, client)`: results for `report.json`; the client knows what failed.

    Raises: EvaluationError when the server does not answer or nothing can be scored.
    """
    async with ServerClient(options.url, options.api_key, options.concurrency, transport) as client:
        info = await client.info()
        run = plan_run(options, info.cultures)
        reader = Reader(client, info.model)
        settings = [BASE, *(Setting.of_blend(c, {c: 1.0}) for c in run.cultures)]
        await _ask(options, reader, run, [(s, key) for s in settings for key in run.asked], "answers")
        prompts = {c: Setting(f"prompt {c}", system=prompt_of(c)) for c in run.own}
        cells = [(prompts[c], key) for c in run.own for key in run.asked if key in run.people[c]]
        await _ask(options, reader, run, cells, "prompted answers")
        run.pairs = most_different_pairs(run.answers, list(run.cultures), options.pairs)
        blends = blend_settings(run.pairs)
        await _ask(options, reader, run, [(s, key) for s in blends for key in run.asked], "blended answers")
        try:
            results = score(options, run)
        except EvaluationError:
            client.check_failures()  # Says why nothing was answered.
            raise
        return results | {"server": info.describe(), "requests": client.describe()}, client


def plan_run(options: SurveyOptions, offered: Sequence[Culture]) -> SurveyRun:
    """What is to be asked.

    Raises: EvaluationError for an unknown culture, or when no country of the data belongs to one.
    """
    survey = read_survey(options.data)
    own = own_cultures(offered, options.cultures, survey)
    if not own:
        raise EvaluationError(
            f"no country of {options.data.name} ({', '.join(sorted(survey))}) belongs to a culture of the "
            f"server ({', '.join(options.cultures or [c.id for c in offered]) or 'none is loaded'})"
        )
    if taken := sorted({c.id for c in offered} & set(FIXED_ROWS)):
        raise EvaluationError(f"a culture has the name of a row of the report: {', '.join(taken)}")
    cultures = {c.id: c for c in offered if not options.cultures or c.id in options.cultures}
    people: dict[str, dict[Key, SurveyQuestion]] = {}
    left_out: set[Key] = set()
    for country, rows in survey.items():
        people[country] = {}
        for row in _chosen(options, rows):
            key = (row.question, row.options)
            if 2 <= len(row.options) <= len(LETTERS):
                people[country][key] = row
            else:
                left_out.add(key)
    asked = list(dict.fromkeys(key for country in own for key in people[country]))
    if options.limit and len(asked) > options.limit:
        asked = [asked[i * len(asked) // options.limit] for i in range(options.limit)]
    if not asked:
        raise EvaluationError(f"{options.data.name} has no question to ask; try --questions all")
    trained = {country: _trained(options, rows) for country, rows in survey.items()}
    return SurveyRun(cultures, own, people, asked, trained, {r: {} for r in options.readouts}, len(left_out))


def own_cultures(
    offered: Sequence[Culture], only: Sequence[str], countries: Collection[str]
) -> dict[str, str]:
    """Country -> the culture that lists it or has its name, for those of `countries` that have one; of
    several, the one with the fewest countries. `only` narrows the cultures; empty for all.

    Raises: EvaluationError for a culture that the server does not have.
    """
    known = {culture.id for culture in offered}
    if unknown := sorted(set(only) - known):
        raise EvaluationError(f"the server has no culture {', '.join(unknown)}; it has {sorted(known)}")
    own: dict[str, str] = {}
    for culture in sorted(offered, key=lambda c: (len(c.countries), c.id)):
        for country in (*culture.countries, culture.id):
            if country in countries and (not only or culture.id in only):
                own.setdefault(country, culture.id)
    return dict(sorted(own.items()))


def _chosen(options: SurveyOptions, rows: Iterable[SurveyQuestion]) -> list[SurveyQuestion]:
    if options.questions == "all":
        return list(rows)
    return split_questions(list(rows), options.held_out_share, options.seed)[1]


def _trained(options: SurveyOptions, rows: Iterable[SurveyQuestion]) -> list[SurveyQuestion]:
    if options.questions == "all":
        return list(rows)
    return split_questions(list(rows), options.held_out_share, options.seed)[0]


async def _ask(
    options: SurveyOptions, reader: Reader, run: SurveyRun, cells: Sequence[tuple[Setting, Key]], unit: str
) -> None:
    """Asks every cell by every readout."""

    async def ask(item: tuple[Readout, Setting, Key]) -> None:
        readout, setting, (text, choices) = item
        work: Coroutine[Any, Any, Answer]
        if readout == "letters":
            orders = option_orders(len(choices), options.orders, f"{options.seed}:{text}")
            work = reader.letters(setting, text, choices, orders)
        else:
            work = reader.words(setting, text, choices)
        with contextlib.suppress(RequestFailed):  # Recorded; the question is left out and counted.
            answer = await work
            run.answers[readout].setdefault(setting.name, {})[text, choices] = answer
        progress.advance()

    with Progress("survey", len(cells) * len(run.answers), unit) as progress:
        await reader.client.for_each([(r, setting, key) for setting, key in cells for r in run.answers], ask)


def score(options: SurveyOptions, run: SurveyRun) -> dict[str, Any]:
    """The report's results, from what was answered.

    Raises: EvaluationError when no question was answered under all settings.
    """
    readouts: dict[str, Any] = {}
    for readout, answers in run.answers.items():
        scores = SurveyScores(run.own, list(run.cultures), run.people, run.asked, answers, run.trained)
        readouts[readout] = {
            **scores.results(options.seed),
            "blends": score_blends(run.pairs, answers, run.people, run.own, run.asked),
        }
    return {
        "data": {
            "file": options.data.name,
            "questions": options.questions,
            "seed": options.seed,
            "held_out_share": options.held_out_share,
            "num_questions": len(run.asked),
            "num_left_out": run.num_left_out,
            "countries_without_a_culture": sorted(set(run.people) - set(run.own)),
        },
        "option_orders": options.orders,
        "readouts": readouts,
        "headline": {readout: headline(results) for readout, results in readouts.items()},
    }


def headline(results: Mapping[str, Any]) -> dict[str, Any]:
    """The few numbers to quote, each beside what it is compared with."""
    rows, blends = results["rows"], results["blends"]
    names = ("uniform", "table", "pooled", "base", "prompt", "own")
    return {
        **{f"{name}_bits": rows[name]["jsd_bits"] for name in names if name in rows},
        "own_worst_bits": rows["own"]["worst_bits"],
        "own_vs_base_reduction_percent": results["own_vs_base"]["reduction_percent"],
        "own_below_uniform": results["own_vs_base"]["own_below_uniform"],
        "own_beats_every_other_share": results["own_vs_others"]["beats_every_other_share"],
        "own_beats_mean_other_share": results["own_vs_others"]["beats_mean_other_share"],
        "blends_between_share": blends["between_share"],
        "blends_monotone_share": blends["monotone_share"],
        "blends_cases": blends["cases"],
        "blends_resolved_cases": blends["resolved_cases"],
        "blends_resolved_between_share": blends["resolved_between_share"],
    }
