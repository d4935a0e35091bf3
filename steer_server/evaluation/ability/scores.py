"""Perplexity and accuracy of every setting, each beside the base's on the same passages and questions.

A passage or question counts when it was answered under every setting. Intervals are 95 % over passages or
questions: Wilson's for an accuracy, resampled for a ratio or a difference, where both sides are resampled
together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steer_server.errors import EvaluationError
from steer_server.evaluation.ability.common_knowledge import CHANCE, KnowledgeQuestion
from steer_server.evaluation.answers import Answer
from steer_server.evaluation.intervals import bootstrap_95, wilson_95
from steer_server.evaluation.named_settings import BASE


@dataclass(frozen=True)
class TextScore:
    """How likely one text is."""

    log_prob: float
    """Nats, summed over its tokens but the first."""
    num_tokens: int


def perplexity(scores: Sequence[TextScore]) -> float:
    """`exp(-Σ log p / Σ tokens)` over all texts together, at least 1."""
    return math.exp(-sum(s.log_prob for s in scores) / sum(s.num_tokens for s in scores))


def score(
    settings: Sequence[str],
    questions: Sequence[KnowledgeQuestion],
    texts: Mapping[str, Mapping[int, TextScore]],
    answers: Mapping[str, Mapping[str, Mapping[int, Answer]]],
    num_passages: int,
    seed: int,
) -> dict[str, Any]:
    """What the report says of every setting, and which is worst.

    Args:
        settings: names, the base's among them.
        texts: by setting and passage.
        answers: by readout, setting and question; the right option is the first of each.

    Raises: EvaluationError when there is no passage, or no question of a readout, that all settings answered.
    """
    passages = _common(texts, settings)
    kept = {readout: _common(by_setting, settings) for readout, by_setting in answers.items()}
    for what, indices in {"passage": passages, **kept}.items():
        if not indices:
            raise EvaluationError(f"{what}: nothing was answered under every setting")
    rows: dict[str, dict[str, Any]] = {}
    for name in settings:
        rows[name] = {"text": _text_row(name, texts, passages, seed)}
        for readout, indices in kept.items():
            rows[name][readout] = _answer_row(name, answers[readout], indices, questions, seed)
    others = [name for name in settings if name != BASE.name]
    return {
        "chance": CHANCE,
        "rows": rows,
        "dropped": {
            "passages": num_passages - len(passages),
            **{readout: len(questions) - len(indices) for readout, indices in kept.items()},
        },
        "worst": _worst(rows, others, list(kept)) if others else {},
        "headline": headline(rows, others, list(kept)),
    }


def headline(
    rows: Mapping[str, Mapping[str, Any]], others: Sequence[str], readouts: Sequence[str]
) -> dict[str, Any]:
    """The base's numbers beside the worst setting's, each named."""
    base = rows[BASE.name]
    numbers: dict[str, Any] = {"base_perplexity": base["text"]["perplexity"]}
    numbers |= {f"base_{readout}_accuracy": base[readout]["accuracy"] for readout in readouts}
    return numbers | ({"worst": _worst(rows, others, readouts)} if others else {})


def _worst(
    rows: Mapping[str, Mapping[str, Any]], others: Sequence[str], readouts: Sequence[str]
) -> dict[str, Any]:
    highest = max(others, key=lambda name: rows[name]["text"]["ratio_to_base"])
    found: dict[str, Any] = {
        "perplexity": {"setting": highest, "ratio_to_base": rows[highest]["text"]["ratio_to_base"]}
    }
    for readout in readouts:
        lowest = min(others, key=lambda name: rows[name][readout]["accuracy"])
        found[readout] = {"setting": lowest, "accuracy": rows[lowest][readout]["accuracy"]}
    return found


def _common(found: Mapping[str, Mapping[int, Any]], settings: Sequence[str]) -> list[int]:
    return sorted(set.intersection(*(set(found[name]) for name in settings)))


def _text_row(
    name: str, texts: Mapping[str, Mapping[int, TextScore]], passages: Sequence[int], seed: int
) -> dict[str, Any]:
    own = [texts[name][i] for i in passages]
    base = [texts[BASE.name][i] for i in passages]

    def ratio(chosen: Sequence[int] | np.ndarray) -> float:
        return perplexity([own[i] for i in chosen]) / perplexity([base[i] for i in chosen])

    return {
        "passages": len(passages),
        "tokens": sum(s.num_tokens for s in own),
        "perplexity": round(perplexity(own), 3),
        "ratio_to_base": round(ratio(range(len(own))), 4),
        "ratio_to_base_95": _rounded(bootstrap_95(len(own), ratio, seed)),
    }


def _answer_row(
    name: str,
    answers: Mapping[str, Mapping[int, Answer]],
    indices: Sequence[int],
    questions: Sequence[KnowledgeQuestion],
    seed: int,
) -> dict[str, Any]:
    right_N = _is_right(answers[name], indices)
    gain_N = right_N - _is_right(answers[BASE.name], indices)
    accuracy = float(right_N.mean())
    topics = np.array([questions[i].topic for i in indices])
    share_N = [float(answers[name][i].mean_N[0]) for i in indices]
    return {
        "questions": len(indices),
        "accuracy": round(accuracy, 4),
        "accuracy_95": _rounded(wilson_95(accuracy, len(indices))),
        "difference_from_base": round(float(gain_N.mean()), 4),
        "difference_from_base_95": _rounded(
            bootstrap_95(len(indices), lambda chosen: float(gain_N[chosen].mean()), seed)
        ),
        "mean_share_of_the_right_option": round(float(np.mean(share_N)), 4),
        "mass": float(f"{np.mean([answers[name][i].mass for i in indices]):.4g}"),
        "missing_letters": sum(answers[name][i].num_missing for i in indices),
        "by_topic": {
            str(topic): round(float(right_N[topics == topic].mean()), 4) for topic in dict.fromkeys(topics)
        },
    }


def _is_right(answers: Mapping[int, Answer], indices: Sequence[int]) -> np.ndarray:
    """1 where the right option, which is the first, has a larger share than every other; else 0."""
    return np.array([float(answers[i].choice == 0) for i in indices])


def _rounded(interval: tuple[float, float]) -> list[float]:
    return [round(bound, 4) for bound in interval]
