"""The guard: an answer may take the draft's place only if π_s likes it better and the base model no less.

log-ratio per token        J(y) > J(draft) + MIN_GAIN
log-likelihood per token   L(y) >= (1 + MAX_LOSS) * L(draft),  L < 0: at most 5 % worse
"""

from __future__ import annotations

from enum import StrEnum

from steer_server.frozen.scored_answer import ScoredAnswer

MAX_LOSS = 0.05
MIN_GAIN = 0.002
"""Nats per token: less is taken for rounding, which in bf16 depends on what else is in the batch."""


class Verdict(StrEnum):
    BETTER = "better"
    LOWER_RATIO = "lower_ratio"
    LESS_LIKELY = "less_likely"
    """The log-ratio is higher, and the base model finds the text too unlikely."""


def judge(answer: ScoredAnswer, present: ScoredAnswer, draft: ScoredAnswer) -> Verdict:
    """Whether `answer` may take the place of the present one. The log-ratio must rise with every step; the
    likelihood is always compared with the draft's, so that small losses do not add up."""
    if answer.log_ratio <= present.log_ratio + MIN_GAIN:
        return Verdict.LOWER_RATIO
    if answer.log_likelihood < (1 + MAX_LOSS) * draft.log_likelihood:
        return Verdict.LESS_LIKELY
    return Verdict.BETTER
