"""`bench rewards`: what scoring costs, and what best-of-n gains, on a running server.

cost     answers scored by one head, beside a batched prefill of the same tokens; and with more heads loaded
choice   one answer, the server's best of n and a client's own best of n: score, judge and latency
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from steer_server.catalogue.base_model import BaseModel
from steer_server.errors import EvaluationError
from steer_server.evaluation.client import ServerClient
from steer_server.evaluation.html import write_all
from steer_server.evaluation.judge_prompts import prompts_for
from steer_server.evaluation.judges import Scorer, read_judges
from steer_server.evaluation.named_settings import read_plans
from steer_server.evaluation.rewards.choice import ChoiceOptions, judged, measure_choice
from steer_server.evaluation.rewards.cost import CostOptions, measure_cost
from steer_server.evaluation.rewards.report import sections, tables
from steer_server.evaluation.samples import Sampling
from steer_server.evaluation.seen_prompts import head_setting, unknown_sentence, unknown_training
from steer_server.settings import Settings

SECONDS = 600.0


@dataclass(frozen=True)
class RewardsOptions:
    url: str
    data: Path
    """Directory of the recipes' data files."""
    judges: Path
    shipped: Path = Path("adapters")
    """Adapters that are served; the head is found here, and judges were trained on none of its prompts."""
    key: str = ""
    """An operator's: heads are pushed."""
    head: str = "harmless"
    """That chooses; also the judge's name, unless that is given."""
    judge: str = ""
    answers: int = 64
    """Scored at once."""
    more_heads: int = 10
    rounds: int = 7
    prompts: int = 100
    candidates: int = 4
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=64))
    concurrency: int = 4


def evaluate_rewards(options: RewardsOptions, settings: Settings, out: Path) -> None:
    """Measures, prints tables and one line of JSON, and writes `out/report.json` and `out/report.html`.

    Args:
        settings: name the model that the judge reads texts with.

    Raises: EvaluationError.
    """
    results = asyncio.run(run_rewards(options, BaseModel.fetched(settings), settings.cache))
    write_all(out, "Reward heads", results, sections(results), tables(results))
    if results["unknown_training"]:
        print(unknown_sentence(results["unknown_training"]))
    print(json.dumps(results["headline"]))


async def run_rewards(options: RewardsOptions, base: BaseModel, cache: Path) -> dict[str, Any]:
    """Raises: EvaluationError when the server does not answer as it should, or a judge may not judge."""
    from transformers import AutoTokenizer

    (judge,) = read_judges(options.judges, (options.judge or options.head,), base, options.shipped)
    found = prompts_for(judge, options.data, options.shipped, options.prompts, options.sampling.seed)
    package = options.shipped / f"head-{options.head}"
    async with ServerClient(options.url, options.key) as client:
        info = await client.info()
        plans = await read_plans(client, [head_setting(options.head)])
    headers = {"Authorization": f"Bearer {options.key}"} if options.key else {}
    async with httpx.AsyncClient(
        base_url=options.url.rstrip("/"), headers=headers, timeout=SECONDS, limits=httpx.Limits()
    ) as http:
        try:
            cost = await measure_cost(
                http,
                CostOptions(
                    info.model, package, options.head, options.answers, options.more_heads, options.rounds
                ),
                AutoTokenizer.from_pretrained(base.path),
            )
            choice = ChoiceOptions(
                info.model, options.head, options.candidates, options.sampling, options.concurrency
            )
            given = await measure_choice(http, choice, found.prompts)
        except (httpx.HTTPError, KeyError, ValueError) as error:
            detail = error.response.text[:300] if isinstance(error, httpx.HTTPStatusError) else ""
            raise EvaluationError(
                f"{options.url} does not answer as it should: {error!r} {detail}"
            ) from error
    chosen = judged(given, judge, Scorer(base, cache), options.sampling.seed)
    return {
        "server": info.describe(),
        "cost": cost,
        "unknown_training": unknown_training(options.shipped, info, plans.values(), [judge]),
        "choice": {**chosen, "prompts": found.describe(), "judge": {"name": judge.name, **judge.describe()}},
        "options": {
            "head": options.head,
            "candidates": options.candidates,
            "concurrency": options.concurrency,
            "temperature": options.sampling.temperature,
            "max_tokens": options.sampling.max_tokens,
            "seed": options.sampling.seed,
        },
        "headline": {
            "scoring_over_prefill": cost["scoring_over_prefill"],
            "more_heads_over_one": cost["more_heads_over_one"],
            "head_score": {way: row["mean_score"] for way, row in chosen["ways"].items()},
            "win_rate_by_judge": {way: row["win_rate"] for way, row in chosen["against_one"].items()},
            "latency_p50": {way: row["p50"] for way, row in chosen["ways"].items()},
        },
    }
