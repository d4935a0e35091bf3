"""`eval pareto`: does the preference vector trade one value axis against another, and how well?

For every pair of axes the weights sweep from one to the other; each axis is judged on its held-out
preference pairs, by how much more than the base model the server prefers their chosen answers.
`plan.py` says what is asked, `chosen_pairs.py` on which pairs, `pair_reader.py` how, `scores.py` what is made
of it.

Not covered: what the server writes by itself; vectors with more than two axes; two adapters' axes at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from steer_server.errors import EvaluationError
from steer_server.evaluation.answers import Reader, Setting
from steer_server.evaluation.client import RequestFailed, ServerClient
from steer_server.evaluation.distributions import Shares
from steer_server.evaluation.html import write_all
from steer_server.evaluation.named_settings import read_plans
from steer_server.evaluation.pareto.chosen_pairs import PairSplit, choose_pairs
from steer_server.evaluation.pareto.pair_reader import EncodedPair, PairReader
from steer_server.evaluation.pareto.plan import Plan, parse_soups, plan_sweeps
from steer_server.evaluation.pareto.report import (
    axis_table,
    front_table,
    pair_table,
    response_table,
    sections,
    verdict_lines,
)
from steer_server.evaluation.pareto.scores import ParetoScores
from steer_server.evaluation.report import Results
from steer_server.progress import Progress
from steer_server.training.panacea_recipe import PanaceaRecipe
from steer_server.training.preference_data import PreferencePair


@dataclass(frozen=True)
class ParetoOptions:
    url: str
    recipe: Path
    data: Path
    """Directory of the recipe's data files."""
    api_key: str = ""
    points: int = 11
    """Of every sweep, both ends included; odd, so that even weights are one."""
    split: PairSplit = "held-out"
    pairs: int = 10
    """Most preference pairs per axis, drawn as the card's are; 0 for all. With four axes, soups and
    prompts, ten are 3,760 requests and about 800,000 tokens."""
    soups: tuple[str, ...] = ()
    """`AXIS=CULTURE`."""
    concurrency: int = 16


def evaluate_pareto(options: ParetoOptions, out: Path) -> None:
    """Measures, prints tables, verdicts and one line of JSON, and writes `out/report.json` and
    `out/report.html`.

    Raises: EvaluationError, for too many failed requests only after the reports are written; TrainingError
        for a bad recipe or bad data.
    """
    results, client = asyncio.run(run_pareto(options))
    tables = [pair_table(results), front_table(results), response_table(results), axis_table(results)]
    write_all(out, "Pareto: weighing one value against another", results, sections(results), tables)
    for line in (*results["remarks"], *verdict_lines(results)):
        print(line)
    print(json.dumps(results["headline"]))
    client.check_failures()


async def run_pareto(
    options: ParetoOptions, transport: httpx.AsyncBaseTransport | None = None
) -> tuple[Results, ServerClient]:
    """Asks, and returns `(results, client)`: results for `report.json`; the client knows what failed.

    Raises: EvaluationError when the server does not answer or nothing can be scored; TrainingError.
    """
    recipe = PanaceaRecipe.read(options.recipe)
    async with ServerClient(options.url, options.api_key, options.concurrency, transport) as client:
        info = await client.info()
        plan = plan_sweeps(recipe, info, options.points, parse_soups(options.soups))
        training = recipe.training
        chosen = {
            axis: choose_pairs(recipe, axis, options.data, options.split, options.pairs or None)
            for axis in plan.axes
        }
        asked = {axis: pairs.asked for axis, pairs in chosen.items()}
        await read_plans(client, list(dict.fromkeys(setting for setting, _ in plan.cells())))
        pairs = PairReader(Reader(client, info.model), training.max_prompt_tokens, training.max_answer_tokens)
        try:
            await pairs.check_system_turn()
        except RequestFailed:  # Recorded. The other methods need no system prompt.
            plan = plan.without("prompt", "Prompts are not measured: the chat template takes no system turn.")
        encoded = await _encode(pairs, asked, "prompt" in {sweep.method for sweep in plan.sweeps})
        cost = await _cost(pairs, plan, encoded)
        print(
            f"pareto: {cost['requests']} requests of two answers each, {cost['tokens']} tokens to read, "
            f"for {cost['settings']} settings of {len(plan.pairs)} pairs of axes",
            file=sys.stderr,
        )
        log_probs = await _ask(pairs, plan, encoded, cost["requests"], training.per_token)
        try:
            beta = {axis: recipe.axis(axis).beta for axis in plan.axes}
            scores = ParetoScores(plan, beta, log_probs, training.seed)
        except EvaluationError:
            client.check_failures()  # Says why nothing was answered.
            raise
        found = scores.results()
        results = {
            "data": {
                "recipe": options.recipe.name,
                "seed": training.seed,
                "split": options.split,
                "held_out_share": training.held_out_share,
                "max_prompt_tokens": training.max_prompt_tokens,
                "max_answer_tokens": training.max_answer_tokens,
                "per_token": training.per_token,
                "axes": {
                    axis: {"beta": beta[axis], **chosen[axis].describe(scores.kept[axis].tolist())}
                    for axis in plan.axes
                },
            },
            "cost": cost,
            "remarks": list(plan.remarks),
            **found,
            "headline": headline(found),
        }
        return results | {"server": info.describe(), "requests": client.describe()}, client


async def _encode(
    pairs: PairReader, asked: Mapping[str, Sequence[PreferencePair]], with_system: bool
) -> dict[str, list[EncodedPair | None]]:
    """Axis -> its pairs in tokens; None for one that the server could not turn into tokens."""
    encoded: dict[str, list[EncodedPair | None]] = {axis: [None] * len(p) for axis, p in asked.items()}

    async def encode(item: tuple[str, int]) -> None:
        axis, i = item
        with contextlib.suppress(RequestFailed):  # Recorded; the pair counts as dropped.
            encoded[axis][i] = await pairs.encode(asked[axis][i], with_system)
        progress.advance()

    items = [(axis, i) for axis, of_axis in asked.items() for i in range(len(of_axis))]
    with Progress("pareto", len(items), "pairs in tokens") as progress:
        await pairs.reader.client.for_each(items, encode)
    return encoded


async def _cost(
    pairs: PairReader, plan: Plan, encoded: Mapping[str, Sequence[EncodedPair | None]]
) -> dict[str, int]:
    """How much is about to be asked."""
    settings, num_requests, num_tokens = set(), 0, 0
    for setting, axis in plan.cells():
        settings.add(setting)
        system_tokens = None
        if setting.system:
            with contextlib.suppress(RequestFailed):  # Recorded; asking fails the same way.
                system_tokens = len(await pairs.system_turn(setting.system))
        for pair in encoded[axis]:
            if pair:
                num_requests += 1
                num_tokens += pair.num_tokens(system_tokens)
    return {"settings": len(settings), "requests": num_requests, "tokens": num_tokens}


async def _ask(
    pairs: PairReader,
    plan: Plan,
    encoded: Mapping[str, Sequence[EncodedPair | None]],
    num_requests: int,
    per_token: bool,
) -> dict[tuple[Setting, str], Shares]:
    """As `pareto_scores.LogProbs`."""
    log_probs = {(setting, axis): np.full((len(encoded[axis]), 2), np.nan) for setting, axis in plan.cells()}

    async def ask(item: tuple[Setting, str, int, EncodedPair]) -> None:
        setting, axis, i, pair = item
        with contextlib.suppress(RequestFailed):  # Recorded; the pair is left out of every sweep, counted.
            lengths = np.array([len(pair.chosen), len(pair.rejected)] if per_token else [1, 1])
            log_probs[setting, axis][i] = np.array(await pairs.log_probs(setting, pair)) / lengths
        progress.advance()

    items = [
        (setting, axis, i, pair)
        for setting, axis in log_probs
        for i, pair in enumerate(encoded[axis])
        if pair
    ]
    with Progress("pareto", num_requests, "preference pairs") as progress:
        await pairs.reader.client.for_each(items, ask)
    return log_probs


def headline(found: Mapping[str, Any]) -> dict[str, Any]:
    """The few numbers to quote, each beside what it is compared with; hypervolumes are means over pairs."""
    spearman, soup = found["verdicts"]
    volumes: dict[str, list[float]] = {}
    for result in found["pairs"]:
        for method, values in result["methods"].items():
            volumes.setdefault(method, []).append(values["metrics"]["hypervolume"])
        for name in ("best", "even"):
            volumes.setdefault(f"fixed_{name}", []).append(result["fixed"][name]["hypervolume"])
    return {
        "pairs": len(found["pairs"]),
        "least_spearman": spearman["least_spearman"],
        "spearman_holds": spearman["holds"],
        "above_soup_holds": soup["holds"],
        **{
            f"{name}_hypervolume": round(float(np.mean(values)), 5)
            for name, values in volumes.items()
            if len(values) == len(found["pairs"])
        },
    }
