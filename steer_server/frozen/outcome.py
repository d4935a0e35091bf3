"""What diffpo says about an answer: whether it is the draft and why, and the numbers before and after."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from steer_server.frozen.diffpo import Denoised
from steer_server.frozen.guard import Verdict
from steer_server.frozen.scored_answer import ScoredAnswer, changed_share


class Outcome(StrEnum):
    IMPROVED = "improved"
    NOTHING_TO_CHANGE = "nothing_to_change"
    """No place was found that may or need be drawn anew."""
    NO_BETTER_CANDIDATE = "no_better_candidate"
    """No candidate has a higher log-ratio than the draft."""
    LESS_LIKELY = "less_likely"
    """Some have, and the base model finds all of those too unlikely."""
    EMPTY_DRAFT = "empty_draft"
    DRAFT_TOO_LONG = "draft_too_long"
    """The local model cannot read the conversation and an upstream's draft at once."""
    NO_STEERING = "no_steering"
    """At strength 0 both distributions are the base model's."""


@dataclass(frozen=True)
class Report:
    """Every outcome but IMPROVED gives the draft back."""

    draft: str
    outcome: Outcome
    denoised: Denoised | None = None
    """None when no loop could begin."""

    @classmethod
    def of(cls, denoised: Denoised) -> Report:
        return cls(denoised.draft.text, _outcome(denoised), denoised)

    @property
    def answer(self) -> str:
        return self.draft if self.denoised is None else self.denoised.answer.text

    @property
    def num_loops(self) -> int:
        return 0 if self.denoised is None else self.denoised.num_loops

    @property
    def changed_share(self) -> float:
        """Of the tokens, 0..1."""
        if self.denoised is None or not self.denoised.is_changed:
            return 0.0
        return changed_share(self.denoised.draft.token_ids, self.denoised.answer.token_ids)

    def describe(self) -> dict[str, Any]:
        """For the response. Log-likelihood and log-ratio are in nats per token."""
        is_improved = self.outcome is Outcome.IMPROVED
        described = {
            "outcome": "improved" if is_improved else "draft",
            "reason": None if is_improved else self.outcome,
            "loops": self.num_loops,
            "changed_share": round(self.changed_share, 4),
            "draft": self.draft,
        }
        if self.denoised is None:
            return described
        return described | {
            "pieces_replaced": self.denoised.num_accepted,
            "candidates": {verdict: self.denoised.verdicts[verdict] for verdict in Verdict},
            "draft_scores": _numbers(self.denoised.draft),
            "answer_scores": _numbers(self.denoised.answer),
        }


def _outcome(denoised: Denoised) -> Outcome:
    if denoised.is_changed:
        return Outcome.IMPROVED
    if not denoised.num_loops:
        return Outcome.NOTHING_TO_CHANGE
    return Outcome.LESS_LIKELY if denoised.verdicts[Verdict.LESS_LIKELY] else Outcome.NO_BETTER_CANDIDATE


def _numbers(answer: ScoredAnswer) -> dict[str, float]:
    return {
        "log_likelihood": round(answer.log_likelihood, 4),
        "log_ratio": round(answer.log_ratio, 4),
        "tokens": len(answer.token_ids),
    }
