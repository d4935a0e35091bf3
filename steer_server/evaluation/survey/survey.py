"""`eval survey`: how far a running server's answers to a survey are from people's, country by country.

Each culture is asked each question once; a country's score is the mean over its questions of the divergence
between the model's distribution and its people's. Scores of a setting: mean over the countries of a culture,
then over cultures, and the worst country beside it.

uniform  every option equally often                     no model
table    mean of the country's people on other known    no model
         questions with the same options
pooled   mean of the other countries' people            no model, but other people's answers
base     the model, not steered
prompt   the model, told to be a person of the country
own      steered with the culture that lists the country, or that `--map` gives it

Countries without an own culture have means of their own, without that row. `plan.py` says what is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from steer_server.errors import EvaluationError
from steer_server.evaluation.answers import Answer, Key, Reader, Readout, Setting, option_orders
from steer_server.evaluation.client import RequestFailed, ServerClient
from steer_server.evaluation.countries import country_name
from steer_server.evaluation.html import write_all
from steer_server.evaluation.named_settings import BASE, read_plans
from steer_server.evaluation.report import Results
from steer_server.evaluation.survey.blends import blend_settings, most_different_pairs, score_blends
from steer_server.evaluation.survey.plan import SurveyOptions, SurveyRun, plan_run
from steer_server.evaluation.survey.report import country_table, mean_tables, sections
from steer_server.evaluation.survey.scores import FIXED_ROWS, SurveyScores
from steer_server.progress import Progress


def evaluate_survey(options: SurveyOptions, out: Path) -> None:
    """Measures, prints tables and one line of JSON, and writes `out/report.json` and `out/report.html`.

    Raises: EvaluationError, for too many failed requests only after the reports are written.
    """
    results, client = asyncio.run(run_survey(options))
    tables = [*mean_tables(results), *(country_table(results, readout) for readout in options.readouts)]
    write_all(out, "Survey: distance from people's answers", results, sections(results), tables)
    for remark in results["remarks"]:
        print(remark)
    print(json.dumps(results["headline"]))
    most = max((found["dropped"] for found in results["readouts"].values()), key=lambda d: d["questions"])
    client.check_failures(most["questions"], most["of"])


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
        plans = await read_plans(client, settings)
        await _ask(options, reader, run, [(s, key) for s in settings for key in run.asked], "answers")
        prompts = {c: Setting(f"prompt {c}", system=prompt_of(c)) for c in run.countries}
        cells = [(prompts[c], key) for c in run.countries for key in run.asked if key in run.people[c]]
        await _ask(options, reader, run, cells, "prompted answers")
        run.pairs = most_different_pairs(run.answers, list(run.cultures), options.pairs)
        blends = blend_settings(run.pairs)
        await _ask(options, reader, run, [(s, key) for s in blends for key in run.asked], "blended answers")
        try:
            results = score(options, run)
        except EvaluationError:
            client.check_failures()  # Says why nothing was answered.
            raise
        about = {"plans": plans, "server": info.describe(), "requests": client.describe()}
        return results | about, client


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
        scores = SurveyScores(
            run.countries, run.own, list(run.cultures), run.people, run.asked, answers, run.learnt
        )
        readouts[readout] = {
            **scores.results(options.seed),
            "blends": score_blends(run.pairs, answers, run.people, run.own, run.asked),
        }
    return {
        "data": {
            "file": options.data.name,
            "known": options.known.name if options.known else None,
            "questions": run.questions,
            "seed": options.seed,
            "held_out_share": options.held_out_share,
            "num_questions": len(run.asked),
            "num_trained": run.num_trained,
            "num_left_out": run.num_left_out,
            "baselines": run.baselines,
            "countries_without_a_culture": [c for c in run.countries if c not in run.own],
        },
        "remarks": [*run.remarks, *_remarks_on_dropped(readouts)],
        "option_orders": options.orders,
        "readouts": readouts,
        "headline": {readout: headline(results) for readout, results in readouts.items()},
    }


def _remarks_on_dropped(readouts: Mapping[str, Any]) -> list[str]:
    return [
        f"By {readout}, {found['dropped']['questions']} of {found['dropped']['of']} answers of countries to "
        "questions were left out, as requests failed."
        for readout, found in readouts.items()
        if found["dropped"]["questions"]
    ]


def headline(results: Mapping[str, Any]) -> dict[str, Any]:
    """The few numbers to quote, each beside what it is compared with: of countries with an own culture, and
    of those without. Blends are quoted where the ends are resolved."""
    numbers: dict[str, Any] = {}
    for prefix, rows in (("", results["rows"]), ("without_own_", results["rows_without_own"])):
        numbers |= {f"{prefix}{name}_bits": rows[name]["jsd_bits"] for name in FIXED_ROWS if name in rows}
    if gain := results["own_vs_base"]:
        numbers |= {
            "own_worst_bits": results["rows"]["own"]["worst_bits"],
            "own_vs_base_reduction_percent": gain["reduction_percent"],
            "own_below_uniform": gain["own_below_uniform"],
            "own_beats_every_other_share": results["own_vs_others"]["beats_every_other_share"],
            "own_beats_mean_other_share": results["own_vs_others"]["beats_mean_other_share"],
        }
    blends = ("cases", "resolved_cases", "resolved_between_share", "resolved_monotone_share")
    return numbers | {f"blends_{name}": results["blends"][name] for name in blends}
