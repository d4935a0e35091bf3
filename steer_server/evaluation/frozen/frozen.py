"""`eval frozen`: ways to steer a model whose weights stay as they are, side by side on unseen prompts.

1. ways.py       which ways there are, for each value that a judge and a steering head stand for
2. answers.py    asks them all (asking.py) prompt by prompt, into `out/answers.jsonl`
3. rewriting.py  times rewriting by itself
4. scores.py     rewards, wins, latency, tokens and likelihood.py's; judges.py says what a judge is
5. verdicts.py   targets

A run that was stopped goes on with the same command. Latency is that of one run on one server: to measure it
again, start the server anew or change the seed, as an answer that was given before is partly in its cache.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from steer_server.catalogue.base_model import BaseModel
from steer_server.errors import EvaluationError
from steer_server.evaluation.client import ServerClient, ServerInfo
from steer_server.evaluation.frozen.answers import KeptLines, Work, collect
from steer_server.evaluation.frozen.asking import Asker
from steer_server.evaluation.frozen.likelihood import Likelihoods, read_likelihoods
from steer_server.evaluation.frozen.report import sections, tables
from steer_server.evaluation.frozen.rewriting import time_rewriting
from steer_server.evaluation.frozen.scores import judge_texts, score_ways
from steer_server.evaluation.frozen.verdicts import judge_targets
from steer_server.evaluation.frozen.ways import (
    ALIGN_PRO,
    PLAIN,
    Aim,
    best_of_name,
    parse_statements,
    plan_aim,
    statement_of,
)
from steer_server.evaluation.html import write_all
from steer_server.evaluation.judge_prompts import JudgePrompts, prompts_for
from steer_server.evaluation.judges import Judge, Scorer, read_judges
from steer_server.evaluation.named_settings import read_plans
from steer_server.evaluation.report import Results, commit
from steer_server.evaluation.samples import Sampling
from steer_server.evaluation.seen_prompts import head_setting, unknown_sentence, unknown_training
from steer_server.settings import Settings

ANSWERS = "answers.jsonl"


@dataclass(frozen=True)
class FrozenOptions:
    url: str
    data: Path
    """Directory of the recipes' data files."""
    judges: Path
    shipped: Path = Path("adapters")
    """Adapters that steer: what they were trained on is not asked."""
    api_key: str = ""
    model: str = ""
    """That is steered; empty for the served base model, or `NAME/model` of an upstream."""
    values: tuple[str, ...] = ()
    """Names of judges and steering heads; empty for every judge that compares answers."""
    statements: tuple[str, ...] = ()
    """`VALUE=TEXT` in place of the usual statements."""
    settings: tuple[str, ...] = ()
    """`NAME=JSON` of further `steering` objects."""
    only: tuple[str, ...] = ()
    """Ways to keep, beside the plain ones; empty for all."""
    candidates: int = 5
    """Of best-of-n, and of the prompt search."""
    prompts: int = 100
    """Most prompts per value; 0 for all there are."""
    timed_prompts: int = 30
    """Most prompts that rewriting is timed with."""
    sampling: Sampling = field(default_factory=Sampling)
    concurrency: int = 1
    """Prompts under way at once. Within a prompt one way follows the other."""


def evaluate_frozen(options: FrozenOptions, settings: Settings, out: Path) -> None:
    """Measures, prints tables and one line of JSON, and writes `out/report.json` and `out/report.html`.

    Args:
        settings: name the model that judges read texts with.

    Raises: EvaluationError, for too many failed requests only after the reports are written.
    """
    commit()
    base = BaseModel.fetched(settings)
    results, client = asyncio.run(run_frozen(options, base, settings.cache, out))
    write_all(out, "Steering a frozen model", results, sections(results), tables(results))
    if results["unknown_training"]:
        print(unknown_sentence(results["unknown_training"]))
    print(json.dumps(results["headline"]))
    client.check_failures()


async def run_frozen(
    options: FrozenOptions,
    base: BaseModel,
    cache: Path,
    out: Path,
    transport: httpx.AsyncBaseTransport | None = None,
) -> tuple[Results, ServerClient]:
    """Asks, judges, and returns the results and the client, which knows what failed.

    Args:
        base: the judges' model.
        cache: of its hidden states.
        out: where answers are kept, and taken from when the run was begun before.

    Raises: EvaluationError when the server does not answer, a way or a judge does not work, or answers of
        another run are in `out`.
    """
    judges = read_judges(options.judges, options.values, base, options.shipped)
    prompts = {
        judge.name: prompts_for(judge, options.data, options.shipped, options.prompts, options.sampling.seed)
        for judge in judges
    }
    room = options.concurrency * options.candidates
    async with ServerClient(options.url, options.api_key, room, transport) as client:
        info = await client.info()
        works = [await _work(options, client, info, judge.name, prompts[judge.name]) for judge in judges]
        heads = await read_plans(client, [head_setting(judge.name) for judge in judges])
        plans = [*heads.values(), *(plan for work in works for plan in work.asker.plans.values())]
        unknown = unknown_training(options.shipped, info, plans, judges)
        kept = KeptLines(out / ANSWERS, _run(options, info, works))
        num_kept = await collect(works, kept, options.concurrency)
        rewriting = await _rewriting(options, works, kept)
    scorer = Scorer(base, cache)
    likelihoods = read_likelihoods(works, base)
    try:
        aims = {
            judge.name: _aim(work, judge, scorer, likelihoods, prompts[judge.name])
            for work, judge in zip(works, judges, strict=True)
        }
    except EvaluationError:
        client.check_failures()  # Says why nothing was answered.
        raise
    targets = judge_targets(aims, rewriting, best_of_name(options.candidates))
    results: Results = {
        "model": works[0].asker.model,
        "aims": aims,
        "rewriting": rewriting,
        "targets": [target.describe() for target in targets],
        "options": {
            **asdict(options.sampling),
            "candidates": options.candidates,
            "concurrency": options.concurrency,
        },
        "unknown_training": unknown,
        "headline": headline(aims),
    }
    requests = {**client.describe(), "prompts_answered_before": num_kept}
    return results | {"server": info.describe(), "requests": requests}, client


def headline(aims: Mapping[str, Any]) -> dict[str, Any]:
    """By value and way, the few numbers to quote."""
    return {
        value: {
            name: {
                "judge_reward": row["judge_reward"]["mean"],
                "head_reward": row["head_reward"]["mean"],
                "win_rate": row.get("against_plain", {}).get("win_rate"),
                "win_rate_95": row.get("against_plain", {}).get("win_rate_95"),
                "win_rate_against_draft": row.get("against_draft", {}).get("win_rate"),
                "p95_seconds": row["latency"].get("p95_seconds"),
            }
            for name, row in aim["rows"].items()
        }
        for value, aim in aims.items()
    }


async def _work(
    options: FrozenOptions, client: ServerClient, info: ServerInfo, value: str, found: JudgePrompts
) -> Work:
    """What is asked for one value. Raises: EvaluationError."""
    model = options.model or info.model
    aim = plan_aim(
        value,
        statement_of(value, parse_statements(options.statements)),
        info,
        is_upstream=model != info.model,
        candidates=options.candidates,
        settings=options.settings,
        only=options.only,
    )
    settings = {way.name: way.setting for way in aim.ways}
    plans = await read_plans(client, list({s.name: s for s in settings.values()}.values()))
    asker = Asker(
        client,
        model,
        info.model,
        value,
        options.candidates,
        options.sampling,
        {name: plans[setting.name] for name, setting in settings.items()},
        uuid.uuid4().hex,
    )
    return Work(aim, asker, found.prompts)


def _run(options: FrozenOptions, info: ServerInfo, works: Sequence[Work]) -> dict[str, Any]:
    """What decides the answers, for the first line of their file."""
    return {
        "model": works[0].asker.model,
        "heads": {a["name"]: a.get("digest") for a in info.adapters if a.get("kind") == "reward_head"},
        "sampling": asdict(options.sampling),
        "candidates": options.candidates,
        "concurrency": options.concurrency,
        "ways": {work.aim.value: _ways(work.aim, work.asker) for work in works},
    }


def _ways(aim: Aim, asker: Asker) -> dict[str, Any]:
    return {way.name: {**way.describe(), "plan": asker.plans[way.name]["plan"]} for way in aim.ways}


async def _rewriting(options: FrozenOptions, works: Sequence[Work], kept: KeptLines) -> dict[str, Any]:
    """Of the first value that has a prompter; empty when none has."""
    for work in works:
        ways = {way.name: way for way in work.aim.ways}
        if ALIGN_PRO in ways:
            prompts = work.prompts[: options.timed_prompts]
            return await time_rewriting(work.asker, ways[PLAIN], ways[ALIGN_PRO], prompts, kept)
    return {}


def _aim(
    work: Work, judge: Judge, scorer: Scorer, likelihoods: Likelihoods, found: JudgePrompts
) -> dict[str, Any]:
    """The report's part on one value. Raises: EvaluationError."""
    rows = score_ways(work, judge, judge_texts(work, judge, scorer), likelihoods)
    problems = {name: problem for one in work.answered.values() for name, problem in one.failed.items()}
    return {
        **work.aim.describe(),
        "judge": judge.describe(),
        "prompts": found.describe(),
        "rows": rows,
        "problems": problems,
    }
