"""An answer with the log-probability of each of its tokens under two distributions: π_s, the steered one, and
π_ref, the base model's.

    r_t = log π_s(y_t | x, y_<t) - log π_ref(y_t | x, y_<t)      in nats
    J(y) = Σ_t r_t / |y|                                         what denoising raises
    log-likelihood of y = Σ_t log π_ref(y_t | x, y_<t) / |y|     what it must not lower by much

Not covered: the end of the turn. How likely an answer is to end where it does is not part of either.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property

MAX_PAIRS = 100_000
"""Of an old and a new token that are the same; difflib looks at each, several times. About 20 ms."""


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
    the common beginning, the common end, or between these in the matching blocks of the two (difflib's).

    Where there are more than MAX_PAIRS equal pairs between, as in a text that says the same again and again,
    M counts the tokens there that both have, in whatever order.
    """
    start = _num_common(before, after)
    ends = _num_common(before[start:][::-1], after[start:][::-1])
    old, new = before[start : len(before) - ends], after[start : len(after) - ends]
    num_old, num_new = Counter(old), Counter(new)
    if sum(num * num_new[token] for token, num in num_old.items()) > MAX_PAIRS:
        num_between = (num_old & num_new).total()
    else:
        blocks = SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
        num_between = sum(block.size for block in blocks)
    return 1 - (start + ends + num_between) / max(len(before), len(after))


def _num_common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
