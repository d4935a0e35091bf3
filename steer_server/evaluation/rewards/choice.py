"""What choosing by a head gains and costs: one answer, the server's best of n, and a client's own.

one              a plain request
one, other seed  the same again: what no difference looks like
best of n        method best_of_n
by the client    a request for n answers, then each scored by a request of its own, as a simple client does
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from steer_server.catalogue.reward_head import text_or_space
from steer_server.evaluation.intervals import bootstrap_95
from steer_server.evaluation.judge_prompts import Messages
from steer_server.evaluation.judges import Judge, Scorer
from steer_server.evaluation.samples import CHAT_PATH, Sampling, as_messages
from steer_server.evaluation.win_rate.scores import Duel, compare
from steer_server.progress import Progress

REFERENCE, NOISE, SERVER, CLIENT = "one", "one, other seed", "best of n", "by the client"
WAYS = (REFERENCE, NOISE, SERVER, CLIENT)
JUDGED = ("win", "tie", "lose", "win_rate", "win_rate_95", "length_controlled_win_rate")
"""Lengths are words of the answer that was given."""


@dataclass(frozen=True)
class ChoiceOptions:
    model: str
    head: str
    candidates: int
    sampling: Sampling
    concurrency: int


@dataclass(frozen=True)
class Chosen:
    """What one way gave to one prompt."""

    text: str
    num_tokens: int
    """Of all answers that were drawn for it."""
    seconds: float
    score: float = 0.0
    """Calibrated, by the head that chose."""


Given = dict[Messages, dict[str, Chosen]]


async def measure_choice(
    http: httpx.AsyncClient, options: ChoiceOptions, prompts: Sequence[Messages]
) -> Given:
    """An answer of every way to every prompt. Raises: httpx.HTTPError for the first that fails."""
    given: Given = {}
    waiting = iter(enumerate(prompts))

    async def work() -> None:
        for number, prompt in waiting:
            # In changing order: the first to ask finds no prompt in the cache.
            ways = WAYS[number % len(WAYS) :] + WAYS[: number % len(WAYS)]
            found = {way: await _ask(http, options, prompt, way) for way in ways}
            scores = await _scores(http, options, prompt, [found[way].text for way in WAYS])
            given[prompt] = {
                way: Chosen(found[way].text, found[way].num_tokens, found[way].seconds, score)
                for way, score in zip(WAYS, scores, strict=True)
            }
            progress.advance()

    with Progress("best of n", len(prompts), "prompts") as progress:
        async with asyncio.TaskGroup() as group:
            for _ in range(options.concurrency):
                group.create_task(work())
    return given


def judged(given: Given, judge: Judge, scorer: Scorer, seed: int) -> dict[str, Any]:
    """Latency and head scores of each way, and what the judge says of each against one plain answer."""
    by_way = {way: [found[way] for found in given.values()] for way in WAYS}
    texts = [(as_messages(prompt), found[way].text) for prompt, found in given.items() for way in WAYS]
    raw = iter(scorer.scores(judge, texts))
    verdicts = [{way: float(next(raw)) for way in WAYS} for _ in given]
    against = {}
    for way in WAYS[1:]:
        duels = [
            Duel(
                verdict[way],
                verdict[REFERENCE],
                len(found[way].text.split()),
                len(found[REFERENCE].text.split()),
                found[way].text == found[REFERENCE].text,
            )
            for verdict, found in zip(verdicts, given.values(), strict=True)
        ]
        gain_N = np.array([found[way].score - found[REFERENCE].score for found in given.values()])
        row = compare(duels, seed)
        against[way] = {
            **{key: row[key] for key in JUDGED},
            "head_gain": _rounded(float(gain_N.mean())),
            "head_gain_95": [_rounded(bound) for bound in _mean_95(gain_N, seed)],
        }
    return {"ways": {way: _row(found) for way, found in by_way.items()}, "against_one": against}


def _row(found: Sequence[Chosen]) -> dict[str, float]:
    seconds = [one.seconds for one in found]
    return {
        "p50": _rounded(float(np.percentile(seconds, 50))),
        "p95": _rounded(float(np.percentile(seconds, 95))),
        "mean_score": _rounded(statistics.mean(one.score for one in found)),
        "mean_tokens": round(statistics.mean(one.num_tokens for one in found), 1),
    }


async def _ask(http: httpx.AsyncClient, options: ChoiceOptions, prompt: Messages, way: str) -> Chosen:
    sampling = options.sampling
    body: dict[str, Any] = {
        "model": options.model,
        "messages": as_messages(prompt),
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "seed": sampling.seed if way == REFERENCE else sampling.other_seed,
    }
    if way == SERVER:
        body["steering"] = {
            "method": "best_of_n",
            "reward_heads": [options.head],
            "options": {"n": options.candidates},
        }
    if way == CLIENT:
        body["n"] = options.candidates
    started = time.perf_counter()
    answer = await _post(http, CHAT_PATH, body)
    texts = [choice["message"]["content"] or "" for choice in answer["choices"]]
    text = texts[0]
    if way == CLIENT:
        scores = [(await _scores(http, options, prompt, [one]))[0] for one in texts]
        text = texts[scores.index(max(scores))]
    return Chosen(text, int(answer["usage"]["completion_tokens"]), time.perf_counter() - started)


async def _scores(
    http: httpx.AsyncClient, options: ChoiceOptions, prompt: Messages, texts: Sequence[str]
) -> list[float]:
    body = {
        "messages": as_messages(prompt),
        "answers": [text_or_space(text) for text in texts],
        "heads": [options.head],
    }
    found = await _post(http, "/v1/rewards", body)
    return [float(scores[options.head]["calibrated"]) for scores in found["scores"]]


async def _post(http: httpx.AsyncClient, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    return dict((await http.post(path, json=body)).raise_for_status().json())


def _mean_95(value_N: np.ndarray, seed: int) -> tuple[float, float]:
    return bootstrap_95(len(value_N), lambda drawn: float(value_N[drawn].mean()), seed)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
