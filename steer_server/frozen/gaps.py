"""Where an answer is to be drawn anew: two ways to find the places, which the loop in `diffpo.py` shares.

spans      the sentences that π_s likes least: those with the lowest mean r_t
conflicts  the answer is kept as long as π_s tolerates it, and drawn anew from the first conflict to the end
           of its sentence, where it joins the rest. A conflict is where the running sum
           c_t = min(0, c_(t-1) + r_t), begun anew in each sentence, falls below -TOLERANCE; the gap begins
           with the run of tokens that led there
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass

from steer_server.frozen.scored_answer import ScoredAnswer
from steer_server.frozen.spans import Span, split

TOLERANCE = 1.5
"""Nats: π_s finds what it is shown e^1.5 = 4.5 times less likely than the base model does."""


@dataclass(frozen=True)
class Gap:
    """A piece of an answer that is to be replaced; the text before and behind it stays."""

    text: str
    """The whole answer."""
    start: int
    end: int
    """In characters; the piece is text[start:end]."""
    glue: str | None
    """What stands before whatever fills the gap; None: the filling goes on in the middle of a sentence."""
    num_tokens: int
    """Of the piece."""

    @property
    def kept(self) -> str:
        """What a filling is drawn behind. It ends in no space: tokens begin with theirs."""
        return self.text[: self.start]

    @property
    def removed(self) -> str:
        return self.text[self.start : self.end]

    def piece(self, filling: str) -> str:
        """What stands in the gap's place when `filling` was drawn for it."""
        return filling.rstrip() if self.glue is None else self.glue + filling.strip()


FindGaps = Callable[[ScoredAnswer, Set[str], int], list[Gap]]
"""(answer, pieces of text that were tried in vain, most gaps) -> gaps that do not overlap, the first to be
closed first."""


def worst_spans(answer: ScoredAnswer, tried: Set[str], most: int) -> list[Gap]:
    """The spans with the lowest mean r_t, the lowest first."""
    found = []
    for span in _open_spans(answer):
        tokens = answer.tokens_between(span.start, span.end)
        gap = _whole_gap(answer, span, len(tokens))
        if tokens and gap.removed not in tried:
            found.append((sum(answer.ratios[t] for t in tokens) / len(tokens), gap))
    found.sort(key=lambda one: one[0])
    return [gap for _, gap in found[:most]]


def first_conflicts(answer: ScoredAnswer, tried: Set[str], most: int) -> list[Gap]:
    """The first conflict of each of the first sentences that have one, in their order."""
    found: list[Gap] = []
    for span in _open_spans(answer):
        gap = _conflict(answer, span)
        if gap is not None and gap.removed not in tried:
            found.append(gap)
        if len(found) == most:
            break
    return found


VARIANTS: Mapping[str, FindGaps] = {"spans": worst_spans, "conflicts": first_conflicts}
"""By the name that a request gives."""


def _open_spans(answer: ScoredAnswer) -> list[Span]:
    return [span for span in split(answer.text) if span.body.strip() and not span.is_fixed]


def _whole_gap(answer: ScoredAnswer, span: Span, num_tokens: int) -> Gap:
    before_glue = span.lead.rstrip(" ")
    glue = span.lead[len(before_glue) :]
    return Gap(answer.text, span.start + len(before_glue), span.end, glue, num_tokens)


def _conflict(answer: ScoredAnswer, span: Span) -> Gap | None:
    tokens = answer.tokens_between(span.start, span.end)
    falling, first = 0.0, tokens.start
    for t in tokens:
        if falling == 0:
            first = t
        falling = min(0.0, falling + answer.ratios[t])
        if falling < -TOLERANCE:
            break
    else:
        return None
    start = answer.ends[first - 1] if first else 0
    if first == tokens.start or start < span.start + len(span.lead):
        return _whole_gap(answer, span, len(tokens))
    # The next token begins with the spaces before it.
    start = len(answer.text[:start].rstrip(" "))
    return Gap(answer.text, start, span.end, None, tokens.stop - first)
