"""What is made of the answers of every way: rewards, wins, latency, tokens, and what its method reports.

    reward        mean calibrated score, 0..1, of the judge or of the steering head
    gain          mean difference from plain's reward, prompt by prompt
    win rate      by the judge, see `win_rate/scores.py`; lengths are words of the answer
    p95 ratio     95th percentile of the latency over that of best-of-n, on prompts where both have a time
    likelihood    (L' - L) / |L| of one answer, with L and L' the base model's log-likelihood per token of the
                  draft and of the answer, as `likelihood.py` reads them: -0.05 is 5 % worse, 0 a draft that
                  was given back

Intervals are 95 %, over prompts. Rewards of different judges have no common scale.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from steer_server.errors import EvaluationError
from steer_server.evaluation.frozen.answers import Answered, Work, in_order
from steer_server.evaluation.frozen.asking import Given
from steer_server.evaluation.frozen.likelihood import Likelihoods
from steer_server.evaluation.frozen.ways import PLAIN, SEARCH, best_of_name
from steer_server.evaluation.intervals import bootstrap_95, wilson_95
from steer_server.evaluation.judge_prompts import Messages
from steer_server.evaluation.judges import Judge, Scorer
from steer_server.evaluation.samples import as_messages
from steer_server.evaluation.win_rate.scores import Duel, compare

Verdicts = Mapping[tuple[Messages, str], float]
"""The judge's raw score of an answer to a prompt."""


def judge_texts(work: Work, judge: Judge, scorer: Scorer) -> Verdicts:
    """Scores of every answer and every draft."""
    texts = [
        (prompt, text)
        for prompt, answered in in_order(work)
        for one in answered.given.values()
        for text in (one.text, _draft(one))
        if text is not None
    ]
    texts = list(dict.fromkeys(texts))
    if not texts:
        return {}
    raw_N = scorer.scores(judge, [(as_messages(prompt), text) for prompt, text in texts])
    return {text: float(raw) for text, raw in zip(texts, raw_N, strict=True)}


def score_ways(work: Work, judge: Judge, verdicts: Verdicts, likelihoods: Likelihoods) -> dict[str, Any]:
    """A row for every way. Raises: EvaluationError when a way, or plain, has no answer to any prompt."""
    rows = {}
    for way in work.aim.ways:
        found = [(prompt, one) for prompt, one in in_order(work) if way.name in one.given]
        paired = [(prompt, one) for prompt, one in found if PLAIN in one.given]
        if not paired:
            raise EvaluationError(
                f"{work.aim.value}, {way.name}: no prompt was answered by it and by {PLAIN}"
            )
        rows[way.name] = {
            **_cost([one.given[way.name] for _, one in found]),
            "failed": len(work.prompts) - len(found),
            **_rewards(way.name, paired, judge, verdicts, work.asker.sampling.seed),
            **_latency(way.name, found, best_of_name(work.asker.candidates), work.asker.sampling.seed),
            **_by_method(way.name, found, verdicts, likelihoods, work.asker.sampling.seed),
        }
    return rows


Found = Sequence[tuple[Messages, Answered]]


def _cost(given: Sequence[Given]) -> dict[str, Any]:
    return {
        "answers": len(given),
        "cut": sum(one.is_cut for one in given),
        "empty": sum(not one.text.strip() for one in given),
        "prefilled_tokens": round(float(np.mean([one.prefilled for one in given])), 1),
        "generated_tokens": round(float(np.mean([one.generated for one in given])), 1),
    }


def _rewards(way: str, paired: Found, judge: Judge, verdicts: Verdicts, seed: int) -> dict[str, Any]:
    calibrated = judge.config.calibration
    judge_N = np.array([calibrated(verdicts[prompt, one.given[way].text]) for prompt, one in paired])
    plain_N = np.array([calibrated(verdicts[prompt, one.given[PLAIN].text]) for prompt, one in paired])
    head_N = np.array([one.given[way].score for _, one in paired])
    head_plain_N = np.array([one.given[PLAIN].score for _, one in paired])
    rows = {
        "judge_reward": mean_95(judge_N, seed),
        "judge_gain": mean_95(judge_N - plain_N, seed),
        "head_reward": mean_95(head_N, seed),
        "head_gain": mean_95(head_N - head_plain_N, seed),
    }
    if way != PLAIN:
        rows["against_plain"] = _against(way, PLAIN, paired, verdicts, seed)
    return rows


def _latency(way: str, found: Found, best_of: str, seed: int) -> dict[str, Any]:
    """Of answers that took no retry."""
    seconds = [one.given[way].seconds for _, one in found]
    timed_N = np.array([value for value in seconds if value is not None])
    latency: dict[str, Any] = {"timed": len(timed_N)}
    if len(timed_N):
        latency |= {f"p{q}_seconds": _rounded(float(np.percentile(timed_N, q))) for q in (50, 95)}
    pairs = [
        (ours, theirs)
        for _, one in found
        if best_of in one.given
        for ours, theirs in ((one.given[way].seconds, one.given[best_of].seconds),)
        if ours is not None and theirs is not None
    ]
    if not pairs or way == best_of:
        return {"latency": latency}
    pair_N_2 = np.array(pairs)

    def ratio(drawn: np.ndarray) -> float:
        ours, theirs = np.percentile(pair_N_2[drawn], 95, axis=0)
        return float(ours / theirs)

    bounds = bootstrap_95(len(pairs), ratio, seed)
    latency["p95_over_best_of"] = ratio(np.arange(len(pairs)))
    latency["p95_over_best_of_95"] = [_rounded(bound) for bound in bounds]
    return {"latency": latency}


def _by_method(
    way: str, found: Found, verdicts: Verdicts, likelihoods: Likelihoods, seed: int
) -> dict[str, Any]:
    """What only some methods have."""
    first = found[0][1].given[way].findings
    if "denoising" in first:
        return {
            "denoising": _denoising(way, found, likelihoods, seed),
            "against_draft": _against_draft(way, found, verdicts, seed),
        }
    if "rewrite" in first:
        rewriting = _rewriting([one.given[way] for _, one in found])
        both = [(prompt, one) for prompt, one in found if SEARCH in one.given]
        against = {"against_search": _against(way, SEARCH, both, verdicts, seed)} if both else {}
        return {"rewriting": rewriting, **against}
    if "search" in first:
        usable = [one.given[way].findings["search"]["usable"] for _, one in found]
        return {"usable_rewrites": round(float(np.mean(usable)), 2)}
    return {}


def _denoising(way: str, found: Found, likelihoods: Likelihoods, seed: int) -> dict[str, Any]:
    """Over all answers, those included whose draft was given back: they have changed by 0."""
    reports = [one.given[way].findings["denoising"] for _, one in found]
    change_N = np.array([_likelihood_change(prompt, one.given[way], likelihoods) for prompt, one in found])
    ratio_N = np.array([_ratio_change(report) for report in reports])
    changed = [report["outcome"] == "improved" for report in reports]
    share = float(np.mean(changed))
    outcomes = Counter("improved" if report["reason"] is None else report["reason"] for report in reports)
    guard = Counter[str]()
    for report in reports:
        guard.update(report.get("candidates", {}))
    return {
        "outcomes": dict(sorted(outcomes.items())),
        "improved_share": round(share, 4),
        "improved_share_95": [round(bound, 4) for bound in wilson_95(share, len(reports))],
        "loops": round(float(np.mean([report["loops"] for report in reports])), 2),
        "changed_share_of_tokens": round(float(np.mean([r["changed_share"] for r in reports])), 4),
        "candidates_by_guard": dict(sorted(guard.items())),
        "likelihood_change": mean_95(change_N, seed),
        "likelihood_change_worst": float(change_N.min()),
        "log_ratio_change": mean_95(ratio_N, seed),
    }


def relative_change(before: float, after: float) -> float:
    """Of the log-likelihood per token, from draft to answer: -0.05 is 5 % worse."""
    return (after - before) / abs(before) if before else 0.0


def _likelihood_change(prompt: Messages, given: Given, likelihoods: Likelihoods) -> float:
    draft = _draft(given) or ""
    if given.findings["denoising"]["outcome"] != "improved":
        return 0.0
    return relative_change(likelihoods[prompt, draft], likelihoods[prompt, given.text])


def _ratio_change(report: Mapping[str, Any]) -> float:
    """As the server says."""
    if "answer_scores" not in report:
        return 0.0
    return float(report["answer_scores"]["log_ratio"] - report["draft_scores"]["log_ratio"])


def _rewriting(given: Sequence[Given]) -> dict[str, Any]:
    """How rewrites came about, and the time they took, of those that were not in the cache."""
    rewrites = [one.findings["rewrite"] for one in given]
    took = [
        one.findings["timings_ms"]["rewrite"]
        for one in given
        if one.findings["rewrite"]["status"] != "cached"
    ]
    counted = Counter(rewrite["reason"] or rewrite["status"] for rewrite in rewrites)
    return {
        "outcomes": dict(sorted(counted.items())),
        "sent_share": round(float(np.mean([rewrite["status"] != "original" for rewrite in rewrites])), 4),
        "uncached_p50_ms": _rounded(float(np.median(took))) if took else None,
    }


def _against(way: str, other: str, both: Found, verdicts: Verdicts, seed: int) -> dict[str, Any]:
    duels = [_duel(prompt, one.given[way].text, one.given[other].text, verdicts) for prompt, one in both]
    return compare(duels, seed)


def _against_draft(way: str, found: Found, verdicts: Verdicts, seed: int) -> dict[str, Any]:
    """Of all answers, where a draft that was given back ties; and of the changed ones alone."""
    drafts = [(prompt, one.given[way].text, _draft(one.given[way]) or "") for prompt, one in found]
    duels = [_duel(prompt, text, draft, verdicts) for prompt, text, draft in drafts]
    changed = [duel for duel in duels if not duel.is_same_text]
    return {**compare(duels, seed), "of_changed": compare(changed, seed) if changed else None}


def _duel(prompt: Messages, ours: str, theirs: str, verdicts: Verdicts) -> Duel:
    return Duel(
        verdicts[prompt, ours],
        verdicts[prompt, theirs],
        len(ours.split()),
        len(theirs.split()),
        ours == theirs,
    )


def _draft(given: Given) -> str | None:
    """What was denoised; None for ways without one."""
    draft = given.findings.get("denoising", {}).get("draft")
    return None if draft is None else str(draft)


def mean_95(value_N: np.ndarray, seed: int) -> dict[str, Any]:
    """The mean, and its interval."""
    low, high = bootstrap_95(len(value_N), lambda drawn: float(value_N[drawn].mean()), seed)
    return {"mean": _rounded(float(value_N.mean())), "interval_95": [_rounded(low), _rounded(high)]}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
