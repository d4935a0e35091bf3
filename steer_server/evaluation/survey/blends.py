"""Does a blend of two cultures land between them? Sweeps of two weights that sum to 1.

For cultures a and b, `d_a(w)` is the divergence, averaged over questions, of the answers at weights
`{a: 1-w, b: w}` from a's own answers; `d_b(w)` likewise. A case is one pair and one of its ends.

between   the blends at w = 0.25, 0.5, 0.75 have left that end, and are nearer to it than the other end is
monotone  the distance to that end never falls as the weight moves away from it, and is larger at the last
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from steer_server.evaluation.answers import Answer, Answers, Key, Readout, Setting
from steer_server.evaluation.distributions import jensen_shannon_bits, mean_shares
from steer_server.training.survey_data import SurveyQuestion

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the second culture of a pair."""
MIN_RESOLVED_BITS = 0.005
"""Ends nearer than this are not resolved: in bf16 the same sweep moved by up to 0.001 bits in no order."""

Pair = tuple[str, str]


def blend_name(pair: Pair, weight: float) -> str:
    """The ends of a sweep are the cultures themselves."""
    a, b = pair
    return {0.0: a, 1.0: b}.get(weight, f"{1 - weight:g} {a} + {weight:g} {b}")


def blend_settings(pairs: Sequence[Pair]) -> list[Setting]:
    """The blends inside the sweeps; their ends are asked anyway."""
    return [
        Setting.of_blend(blend_name((a, b), w), {a: 1 - w, b: w}) for a, b in pairs for w in WEIGHTS[1:-1]
    ]


def most_different_pairs(
    answers: Mapping[Readout, Answers], cultures: Sequence[str], num_pairs: int
) -> list[Pair]:
    """Pairs of cultures whose answers are furthest apart, averaged over questions, then over readouts."""

    def distance(pair: Pair) -> float:
        means = []
        for by_setting in answers.values():
            a, b = (by_setting.get(culture, {}) for culture in pair)
            apart = [float(jensen_shannon_bits(a[key].mean_N, b[key].mean_N)) for key in a.keys() & b.keys()]
            means.append(float(np.mean(apart)) if apart else 0.0)
        return float(np.mean(means))

    pairs = itertools.combinations(cultures, 2)
    return sorted(pairs, key=lambda pair: (-distance(pair), pair))[:num_pairs]


def score_blends(
    pairs: Sequence[Pair],
    answers: Answers,
    people: Mapping[str, Mapping[Key, SurveyQuestion]],
    own: Mapping[str, str],
    asked: Sequence[Key],
) -> dict[str, Any]:
    """Sweeps in bits and the shares of cases in the module's docstring; None without a pair.

    `people_*`: distance of the sweep's middle to the people of the pair's countries, where it may be between
    the two ends', lower than both, or neither.
    """
    sweeps: list[dict[str, Any]] = []
    cases: list[tuple[bool, bool, bool]] = []
    """(between, monotone, resolved)"""
    middles: list[str] = []
    for pair in pairs:
        points = [answers.get(blend_name(pair, w), {}) for w in WEIGHTS]
        keys = [key for key in asked if all(key in point for point in points)]
        if not keys:
            continue
        sweep: dict[str, Any] = {"pair": list(pair), "questions": len(keys), "to_ends": {}, "to_people": {}}
        for end, culture in ((0, pair[0]), (-1, pair[1])):
            distances = [
                _mean(jensen_shannon_bits(point[k].mean_N, points[end][k].mean_N) for k in keys)
                for point in points
            ]
            away = distances if end == 0 else distances[::-1]
            is_resolved = away[-1] >= MIN_RESOLVED_BITS
            is_between = all(away[0] < distance < away[-1] for distance in away[1:-1])
            is_monotone = away == sorted(away) and away[-1] > away[0]
            cases.append((is_between, is_monotone, is_resolved))
            sweep["to_ends"][culture] = _rounded(distances)
        for country in (c for c, culture in own.items() if culture in pair):
            theirs = [key for key in keys if key in people[country]]
            if theirs:
                distances = [_mean(_apart(point[k], people[country][k]) for k in theirs) for point in points]
                middles.append(_place(distances))
                sweep["to_people"][country] = _rounded(distances)
        sweeps.append(sweep)
    return {
        "weights_of_the_second": list(WEIGHTS),
        "sweeps": sweeps,
        "cases": len(cases),
        "between_share": _share([between for between, _, _ in cases]),
        "monotone_share": _share([monotone for _, monotone, _ in cases]),
        "resolved_cases": sum(resolved for _, _, resolved in cases),
        "resolved_between_share": _share([between for between, _, resolved in cases if resolved]),
        "resolved_monotone_share": _share([monotone for _, monotone, resolved in cases if resolved]),
        "people_cases": len(middles),
        "people_between_share": _share([place == "between" for place in middles]),
        "people_lower_than_both_share": _share([place == "lower" for place in middles]),
    }


def _apart(answer: Answer, row: SurveyQuestion) -> float:
    """Mean over option orders."""
    return float(jensen_shannon_bits(answer.shares_O_N, mean_shares([row.distribution])).mean())


def _mean(values: Iterable[Any]) -> float:
    return float(np.mean(list(values)))


def _place(distances: Sequence[float]) -> str:
    middle, ends = distances[len(distances) // 2], (distances[0], distances[-1])
    if middle < min(ends):
        return "lower"
    return "between" if min(ends) < middle < max(ends) else "not lower"


def _share(found: Sequence[bool]) -> float | None:
    return round(sum(found) / len(found), 3) if found else None


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]
