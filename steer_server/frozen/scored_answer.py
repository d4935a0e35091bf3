"""An answer with the log-probability of each of its tokens under two distributions: π_s, the steered one, and
π_ref, the base model's.

    r_t = log π_s(y_t | x, y_<t) - log π_ref(y_t | x, y_<t)      in nats
    J(y) = Σ_t r_t / |y|                                         what denoising raises
    log-likelihood of y = Σ_t log π_ref(y_t | x, y_<t) / |y|     what it must not lower by much

Not covered: the end of the turn. How likely an answer is to end where it does is not part of either.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property


@dataclass(frozen=True)
class ScoredAnswer:
    """The four sequences have one entry for each token."""

    text: str
    token_ids: Sequence[int]
    ends: Sequence[int]
    """Where each token ends, in characters of the text; never falling."""
    steered: Sequence[float]
    """log π_s of each token."""
    reference: Sequence[float]
    """log π_ref of each token."""

    @cached_property
    def ratios(self) -> list[float]:
        """r_t."""
        return [s - r for s, r in zip(self.steered, self.reference, strict=True)]

    @cached_property
    def log_ratio(self) -> float:
        """J, in nats per token."""
        return sum(self.ratios) / len(self.ratios)

    @cached_property
    def log_likelihood(self) -> float:
        """In nats per token, under π_ref."""
        return sum(self.reference) / len(self.reference)

    def tokens_between(self, start: int, end: int) -> range:
        """Indices of the tokens that end in text[start:end], but not at its very beginning."""
        return range(bisect_left(self.ends, start + 1), bisect_left(self.ends, end + 1))


def changed_share(before: Sequence[int], after: Sequence[int]) -> float:
    """Share of the tokens that are others now: `1 - M / max(|before|, |after|)`, 0..1, where M tokens lie in
    the matching blocks of the two sequences (difflib's)."""
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    num_kept = sum(block.size for block in matcher.get_matching_blocks())
    return 1 - num_kept / max(len(before), len(after))
