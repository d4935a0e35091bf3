"""`eval win-rate`: whose answers a judge prefers, a setting's or those of what it is compared with.

Both answer the same prompts, sampled with fixed seeds; judges.py says what a judge is. It scores each answer
by itself, so there is no position to swap.

setting            against the reference, which is the model without steering unless said otherwise
…, other seed      the reference against itself with another seed: the floor of noise under every other row

A setting is sampled with the seed of the noise row, so a setting that changes nothing has that row's answers.
Win rates are explained in scores.py, prompts in judge_prompts.py.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from steer_server.catalogue.base_model import BaseModel
from steer_server.errors import EvaluationError
from steer_server.evaluation.answers import Setting
from steer_server.evaluation.client import ServerClient, ServerInfo
from steer_server.evaluation.html import write_all
from steer_server.evaluation.judge_prompts import JudgePrompts, Messages, prompts_for
from steer_server.evaluation.judges import Judge, Scorer, read_judges
from steer_server.evaluation.named_settings import (
    BASE,
    axes_alone,
    blended_axes,
    parse_settings,
    read_plans,
)
from steer_server.evaluation.report import Results
from steer_server.evaluation.samples import (
    Sample,
    Samples,
    Sampling,
    as_messages,
    describe_samples,
    sample_answers,
)
from steer_server.evaluation.seen_prompts import unknown_sentence, unknown_training
from steer_server.evaluation.win_rate.report import sections, win_rate_table
from steer_server.evaluation.win_rate.scores import Duel, compare
from steer_server.settings import Settings


@dataclass(frozen=True)
class WinRateOptions:
    url: str
    data: Path
    """Directory of the recipes' data files."""
    judges: Path
    shipped: Path = Path("adapters")
    """Adapters that steer: what they were trained on is not asked, and judges must share none of it with the
    heads among them."""
    api_key: str = ""
    settings: tuple[str, ...] = ()
    """`NAME=JSON`; empty for every value axis alone and the first two half and half."""
    against: str = ""
    """`NAME=JSON` of the reference; empty for the model without steering."""
    only_judges: tuple[str, ...] = ()
    prompts: int = 100
    """Most prompts per judge; 0 for all there are."""
    sampling: Sampling = field(default_factory=Sampling)
    """Its seed is also that of the prompts and of resamples."""
    concurrency: int = 16


def evaluate_win_rate(options: WinRateOptions, settings: Settings, out: Path) -> None:
    """Measures, prints a table and one line of JSON, and writes `out/report.json` and `out/report.html`.

    Args:
        settings: name the model that judges read texts with.

    Raises: EvaluationError, for too many failed requests only after the reports are written.
    """
    results, client = asyncio.run(run_win_rate(options, BaseModel.fetched(settings), settings.cache))
    write_all(out, "Win rates", results, sections(results), [win_rate_table(results)])
    if results["unknown_training"]:
        print(unknown_sentence(results["unknown_training"]))
    print(json.dumps(results["headline"]))
    client.check_failures()


async def run_win_rate(
    options: WinRateOptions, base: BaseModel, cache: Path, transport: httpx.AsyncBaseTransport | None = None
) -> tuple[Results, ServerClient]:
    """Asks, judges, and returns the results and the client, which knows what failed.

    Args:
        base: the judges' model.
        cache: of its hidden states.

    Raises: EvaluationError when the server does not answer, a judge may not judge, or nothing was answered.
    """
    judges = read_judges(options.judges, options.only_judges, base, options.shipped)
    sampling = options.sampling
    prompts = {
        judge.name: prompts_for(judge, options.data, options.shipped, options.prompts, sampling.seed)
        for judge in judges
    }
    every = list(dict.fromkeys(prompt for found in prompts.values() for prompt in found.prompts))
    async with ServerClient(options.url, options.api_key, options.concurrency, transport) as client:
        info = await client.info()
        reference, settings = chosen_settings(options, info)
        plans = await read_plans(client, [reference, *settings])
        cells = [(reference, sampling.seed), *((s, sampling.other_seed) for s in (reference, *settings))]
        unknown = unknown_training(options.shipped, info, plans.values(), judges)
        samples = await sample_answers(client, info.model, cells, every, sampling, plans)
    scorer = Scorer(base, cache)
    rows = [(noise_name(reference), reference), *((setting.name, setting) for setting in settings)]
    try:
        judged = {
            judge.name: judge_rows(judge, prompts[judge.name], rows, samples, reference, sampling, scorer)
            for judge in judges
        }
    except EvaluationError:
        client.check_failures()  # Says why nothing was answered.
        raise
    answers = {reference.name: describe_samples(samples[reference.name, sampling.seed])}
    answers |= {name: describe_samples(samples[s.name, sampling.other_seed]) for name, s in rows}
    results: Results = {
        "against": reference.name,
        "settings": {s.name: {**s.steering(), "plan": plans[s.name]} for s in (reference, *settings)},
        "sampling": {
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "seeds": [sampling.seed, sampling.other_seed],
        },
        "judges": judged,
        "answers": answers,
        "unknown_training": unknown,
        "headline": headline(judged),
    }
    return results | {"server": info.describe(), "requests": client.describe()}, client


def chosen_settings(options: WinRateOptions, info: ServerInfo) -> tuple[Setting, list[Setting]]:
    """The reference and the settings that are compared with it.

    Raises: EvaluationError when none is given and the server has no value axis, or for a bad one.
    """
    reference = parse_settings([options.against])[0] if options.against else BASE
    given = parse_settings(options.settings, taken=(reference.name, noise_name(reference)))
    settings = given or [*axes_alone(info), *blended_axes(info)]
    if not settings:
        raise EvaluationError("the server has no value axes; name what to compare with --setting NAME=JSON")
    return reference, settings


def noise_name(reference: Setting) -> str:
    return f"{reference.name}, other seed"


def judge_rows(
    judge: Judge,
    found: JudgePrompts,
    rows: list[tuple[str, Setting]],
    samples: Samples,
    reference: Setting,
    sampling: Sampling,
    scorer: Scorer,
) -> dict[str, Any]:
    """What a judge says of every row.

    Args:
        rows: (name, setting), each compared by its answers with the other seed.

    Raises: EvaluationError when a row has no prompt that was answered on both sides.
    """
    theirs = samples[reference.name, sampling.seed]
    sides = {name: samples[setting.name, sampling.other_seed] for name, setting in rows}
    texts = list(
        dict.fromkeys(
            (prompt, side[prompt].text)
            for side in (theirs, *sides.values())
            for prompt in found.prompts
            if prompt in side
        )
    )
    score = dict(zip(texts, _scores(judge, texts, scorer), strict=True))
    compared = {}
    for name, ours in sides.items():
        duels = [
            _duel(
                ours[prompt],
                theirs[prompt],
                score[prompt, ours[prompt].text],
                score[prompt, theirs[prompt].text],
            )
            for prompt in found.prompts
            if prompt in ours and prompt in theirs
        ]
        if not duels:
            raise EvaluationError(f"{name}: no prompt of judge {judge.name} was answered on both sides")
        compared[name] = {**compare(duels, sampling.seed), "dropped": len(found.prompts) - len(duels)}
    return {**judge.describe(), "prompts": found.describe(), "rows": compared}


def _scores(judge: Judge, texts: list[tuple[Messages, str]], scorer: Scorer) -> list[float]:
    if not texts:
        return []
    return [float(raw) for raw in scorer.scores(judge, [(as_messages(p), text) for p, text in texts])]


def _duel(ours: Sample, theirs: Sample, score: float, other_score: float) -> Duel:
    return Duel(score, other_score, ours.num_tokens, theirs.num_tokens, ours.text == theirs.text)


def headline(judged: Mapping[str, Any]) -> dict[str, Any]:
    """The win rate of every row, the length-controlled one beside it, and what the judge is worth."""
    return {
        judge: {
            "test_accuracy_of_the_judge": found["own_pairs"]["test"].get("accuracy"),
            **{
                name: {key: row[key] for key in ("win_rate", "win_rate_95", "length_controlled_win_rate")}
                for name, row in found["rows"].items()
            },
        }
        for judge, found in judged.items()
    }
