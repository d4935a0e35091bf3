"""The targets of steering a frozen model, and whether what was measured meets them, before it is rounded.

A win rate meets its target by its estimate; whether its interval lies above a half is said beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from steer_server.evaluation.frozen.ways import ALIGN_PRO
from steer_server.evaluation.intervals import wilson_95

WIN_RATE = 0.57
LIKELIHOOD_CHANGE = -0.05
"""Of the worst answer."""
P95_OVER_BEST_OF = 0.82
CACHED_MS = 2.0
"""95th percentile."""
UNCACHED_OVER_ANSWER = 0.35
"""Median."""


@dataclass(frozen=True)
class Target:
    """One line."""

    what: str
    wanted: str
    found: str
    is_met: bool | None
    """None: not measured, and `found` says why."""

    def describe(self) -> dict[str, Any]:
        return asdict(self)


def judge_targets(aims: Mapping[str, Any], rewriting: Mapping[str, Any], best_of: str) -> list[Target]:
    """Every target for every way that it speaks of.

    Args:
        aims: by value, `rows` and `missing` ways.
        rewriting: what `time_rewriting` gave; empty when there was no prompter.
        best_of: name of the way that latency is compared with.
    """
    return [*_of_aims(aims, best_of), *_of_rewriting(rewriting)]


def _of_aims(aims: Mapping[str, Any], best_of: str) -> Iterator[Target]:
    for value, aim in aims.items():
        row = aim["rows"].get(ALIGN_PRO)
        if row is None:
            reason = aim["missing"].get(ALIGN_PRO, "not asked for")
            yield Target(f"{value}: {ALIGN_PRO}, win rate against plain", _at_least(WIN_RATE), reason, None)
        for name, row in aim["rows"].items():
            if "rewriting" in row:
                yield _win_rate(f"{value}: {name}, win rate against plain", row["against_plain"])
            if "denoising" in row:
                yield _win_rate(f"{value}: {name}, win rate against its own draft", row["against_draft"])
                yield _likelihood(f"{value}: {name}", row["denoising"])
                yield _latency(f"{value}: {name}", row["latency"], best_of)


def _of_rewriting(rewriting: Mapping[str, Any]) -> Iterator[Target]:
    cached, uncached = "a cached rewrite, ms", "an uncached rewrite over an answer of 128 tokens"
    if not rewriting.get("prompts"):
        reason = "nothing was rewritten" if rewriting else "no prompter was asked"
        yield Target(cached, f"< {CACHED_MS:g}", reason, None)
        yield Target(uncached, f"<= {UNCACHED_OVER_ANSWER}", reason, None)
        return
    took, share = rewriting["cached_ms"], rewriting["uncached_over_answer"]
    yield Target(
        cached,
        f"< {CACHED_MS:g}",
        f"95th percentile {took['p95']:.3g}, median {took['p50']:.3g}",
        took["p95"] < CACHED_MS,
    )
    whole = rewriting["align_pro_over_plain"]
    added = f"; the whole answer took {whole['p50']:.2f} times as long" if whole else ""
    yield Target(
        uncached,
        f"<= {UNCACHED_OVER_ANSWER}",
        f"median {share['p50']:.3f} {_interval(share['p50_95'])}, 95th percentile {share['p95']:.3f}; "
        f"answers of {rewriting['answer_tokens']:g} tokens{added}",
        share["p50"] <= UNCACHED_OVER_ANSWER,
    )


def _win_rate(what: str, against: Mapping[str, Any]) -> Target:
    rate = (against["win"] + against["tie"] / 2) / against["prompts"]
    bounds = wilson_95(rate, against["prompts"])
    beside = "above" if bounds[0] > 0.5 else "not above"
    found = f"{rate:.3f} {_interval(bounds)}, {against['prompts']} prompts; the interval is {beside} 0.5"
    return Target(what, _at_least(WIN_RATE), found, rate >= WIN_RATE)


def _likelihood(what: str, denoising: Mapping[str, Any]) -> Target:
    worst, mean = denoising["likelihood_change_worst"], denoising["likelihood_change"]
    return Target(
        f"{what}, base likelihood per token, read by the judges' model",
        f">= {LIKELIHOOD_CHANGE}",
        f"worst answer {worst:+.3f}, mean {mean['mean']:+.4f} {_interval(mean['interval_95'], 4)}",
        worst >= LIKELIHOOD_CHANGE,
    )


def _latency(what: str, latency: Mapping[str, Any], best_of: str) -> Target:
    what, wanted = f"{what}, p95 over {best_of}", f"<= {P95_OVER_BEST_OF}"
    ratio = latency.get("p95_over_best_of")
    if ratio is None:
        return Target(what, wanted, f"no times of both it and {best_of}", None)
    bounds = latency["p95_over_best_of_95"]
    return Target(what, wanted, f"{ratio:.3f} {_interval(bounds)}", ratio <= P95_OVER_BEST_OF)


def _at_least(value: float) -> str:
    return f">= {value}"


def _interval(bounds: Sequence[float], digits: int = 3) -> str:
    low, high = (f"{bound:.{digits}f}" for bound in bounds)
    return f"[{low}, {high}]"
