"""What rewriting a prompt adds to an answer: alone, found in the cache, and as a part of the answer.

Per prompt, one request at a time, the two answers taking turns in going first:

plain answer      of 128 tokens; the end of the turn is ignored where the model is the server's own
align_pro answer  the same with a rewrite that is in no cache; not of an upstream, where that cannot be had
transform         the rewrite alone, twice: in no cache, then found there

Times of rewriting are the server's (`timings_ms.rewrite`); times of answers are the client's. Prompts that
the prompter is not asked about, such as long ones, are left out and counted; so are those that took a retry.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from steer_server.evaluation.client import RequestFailed
from steer_server.evaluation.frozen.answers import KeptLines, key_of
from steer_server.evaluation.frozen.asking import Asker, Way
from steer_server.evaluation.intervals import bootstrap_95
from steer_server.evaluation.judge_prompts import Messages
from steer_server.evaluation.samples import as_messages
from steer_server.frozen.rewrite_checks import Reason
from steer_server.progress import Progress

TRANSFORM_PATH = "/v1/steering/transform"
ANSWER_TOKENS = 128
NOT_ASKED = (Reason.NO_TEXT, Reason.TOO_LONG_TO_REWRITE, Reason.STRENGTH_0)
"""Reasons for which no prompter was asked."""


@dataclass(frozen=True)
class Timed:
    """One prompt. Milliseconds."""

    plain_ms: float
    align_pro_ms: float | None
    uncached_ms: float
    cached_ms: float
    cached_request_ms: float
    """The whole request that found it, as the client sees it."""
    num_tokens: int
    """Of the plain answer."""


async def time_rewriting(
    asker: Asker, plain: Way, align_pro: Way, prompts: Sequence[Messages], kept: KeptLines
) -> dict[str, Any]:
    """What was added, over prompts. No request may be under way meanwhile."""
    timed: list[Timed] = []
    num_left_out, num_failed = 0, 0
    with Progress("rewriting", len(prompts), "prompts") as progress:
        for number, prompt in enumerate(prompts):
            key = key_of("rewriting", prompt)
            found = kept.get(key)
            if found is None:
                retries = asker.client.num_retries
                try:
                    one = await _time(asker, plain, align_pro, prompt, is_plain_first=number % 2 == 0)
                except RequestFailed:  # Recorded by the client.
                    num_failed += 1
                    continue
                if retries != asker.client.num_retries:
                    num_failed += 1
                    continue
                found = {"timed": asdict(one) if one else None}
                kept.add(key, found)
            if found["timed"] is None:
                num_left_out += 1
            else:
                timed.append(Timed(**found["timed"]))
            progress.advance()
    counts = {"prompts": len(timed), "not_rewritten": num_left_out, "failed": num_failed}
    return {**counts, **(_summary(timed, asker.sampling.seed) if timed else {})}


def _summary(timed: Sequence[Timed], seed: int) -> dict[str, Any]:
    column = {name: np.array([getattr(one, name) for one in timed]) for name in asdict(timed[0])}
    plain_N = column["plain_ms"]
    is_ours = timed[0].align_pro_ms is not None
    return {
        "answer_tokens": round(float(column["num_tokens"].mean()), 1),
        "plain_answer_ms": _spread(plain_N, seed),
        "uncached_ms": _spread(column["uncached_ms"], seed),
        "cached_ms": _spread(column["cached_ms"], seed),
        "cached_request_ms": _spread(column["cached_request_ms"], seed),
        "uncached_over_answer": _spread(column["uncached_ms"] / plain_N, seed),
        "align_pro_over_plain": _spread(column["align_pro_ms"] / plain_N, seed) if is_ours else None,
    }


async def _time(
    asker: Asker, plain: Way, align_pro: Way, prompt: Messages, *, is_plain_first: bool
) -> Timed | None:
    """None: no prompter was asked. Raises: RequestFailed."""
    salt = f"{asker.salt}:rewriting"
    asking = {"messages": as_messages(prompt), **align_pro.setting.steering(), "cache_salt": salt}
    first, _ = await _transform(asker, asking)
    if first["rewrite"]["reason"] in NOT_ASKED:
        return None
    again, request_ms = await _transform(asker, asking)
    ways = [plain, align_pro] if is_plain_first else [align_pro, plain]
    answers = {way.name: await _answer(asker, way, prompt) for way in ways if way is plain or asker.is_ours}
    return Timed(
        plain_ms=answers[plain.name][0],
        align_pro_ms=answers[align_pro.name][0] if asker.is_ours else None,
        uncached_ms=float(first["timings_ms"]["rewrite"]),
        cached_ms=float(again["timings_ms"]["rewrite"]),
        cached_request_ms=request_ms,
        num_tokens=answers[plain.name][1],
    )


async def _transform(asker: Asker, body: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
    """The server's answer, and the milliseconds until it came. Raises: RequestFailed."""
    started = time.perf_counter()
    found = await asker.client.post(TRANSFORM_PATH, body, is_kept=False)
    passed_ms = (time.perf_counter() - started) * 1000
    try:
        return {"rewrite": found["rewrite"], "timings_ms": found["timings_ms"]}, passed_ms
    except KeyError as error:
        raise asker.client.fail(TRANSFORM_PATH, body, f"without {error}") from error


async def _answer(asker: Asker, way: Way, prompt: Messages) -> tuple[float, int]:
    """Milliseconds and tokens. Raises: RequestFailed."""
    body = {**asker.body(way, as_messages(prompt)), "max_tokens": ANSWER_TOKENS}
    if asker.is_ours:
        # A salt for each: what an earlier answer to the prompt has left in the cache is found by neither.
        body |= {"ignore_eos": True, "cache_salt": f"{asker.salt}:{way.name}"}
    started = time.perf_counter()
    reply = await asker.chat(body, asker.plans[way.name])
    return (time.perf_counter() - started) * 1000, reply.completion_tokens


def _spread(value_N: np.ndarray, seed: int) -> dict[str, Any]:
    """Median, with its 95 % interval over prompts, and 95th percentile."""
    low, high = bootstrap_95(len(value_N), lambda drawn: float(np.median(value_N[drawn])), seed)
    return {
        "p50": float(np.median(value_N)),
        "p50_95": [_rounded(low), _rounded(high)],
        "p95": float(np.percentile(value_N, 95)),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
