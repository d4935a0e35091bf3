"""diffpo: a few loops move a draft toward what a steered distribution prefers, without a reward model.

    repeat at most `loops` times
        find    the places that π_s likes least (`gaps.py`)
        draw    candidates for all of them in one batch, under π_s, behind what precedes each
        score   each candidate in its place, with all that follows, under π_s and π_ref, in one batch
        accept  in each place the candidate with the highest J that passes the guard (`guard.py`)
    until nothing changes

When several places have one, they are taken together if that passes too and is better than the best alone.
A sentence that the answer has already is no candidate: both models find repetition likely. The draft is given
back when no candidate passes.

Source: DiffPO (arXiv 2503.04240) corrects sentences of a draft with a trained model in parallel steps; here
the steered model itself draws them, and nothing is trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from steer_server.frozen.gaps import FindGaps, Gap
from steer_server.frozen.guard import Verdict, judge
from steer_server.frozen.scored_answer import ScoredAnswer


class SteeredModel(Protocol):
    """π_s and π_ref, for one conversation."""

    async def score(
        self, answers: Sequence[str], known: ScoredAnswer | None = None
    ) -> list[ScoredAnswer | None]:
        """None: an answer that is too long. Args: known: whose beginning they may share; what it says of that
        is taken over."""
        ...

    async def draw(self, gaps: Sequence[Gap]) -> list[list[str]]:
        """Fillings for each gap, each a whole sentence, under π_s behind what the gap keeps."""
        ...


@dataclass(frozen=True)
class Search:
    """How long, how wide and where is searched."""

    find: FindGaps
    max_loops: int
    max_gaps: int
    """Places that are drawn anew in one loop."""


@dataclass
class Denoised:
    """What became of a draft."""

    draft: ScoredAnswer
    answer: ScoredAnswer
    """The draft itself when nothing better was found."""
    num_loops: int = 0
    """Including the last, which may have changed nothing."""
    num_accepted: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    """Of the guard on every candidate."""

    @property
    def is_changed(self) -> bool:
        return self.answer is not self.draft


async def denoise(draft: ScoredAnswer, model: SteeredModel, search: Search) -> Denoised:
    """Raises: whatever the model raises."""
    found = Denoised(draft, draft)
    tried: set[str] = set()
    while found.num_loops < search.max_loops:
        gaps = search.find(found.answer, tried, search.max_gaps)
        if not gaps:
            break
        found.num_loops += 1
        best = await _best_pieces(gaps, model, found)
        if not best:
            break
        tried |= {gap.removed for gap in gaps if gap not in best}
        found.answer, num_accepted = await _taken_together(best, model, found)
        found.num_accepted += num_accepted
    return found


Pieces = dict[Gap, tuple[str, ScoredAnswer]]
"""What stands in a gap's place, and the answer that it makes alone."""


async def _best_pieces(gaps: Sequence[Gap], model: SteeredModel, found: Denoised) -> Pieces:
    """Of each gap that has a candidate which passes, the best one."""
    drawn = await model.draw(gaps)
    pieces = {
        spliced(gap.text, {gap: piece}): (gap, piece)
        for gap, fillings in zip(gaps, drawn, strict=True)
        for piece in map(gap.piece, fillings)
        if piece != gap.removed and not _repeats(piece, [gap.text[: gap.start], gap.text[gap.end :]])
    }
    best: Pieces = {}
    for answer in await model.score(list(pieces), found.answer):
        if answer is None:
            continue
        gap, piece = pieces[answer.text]
        verdict = judge(answer, found.answer, found.draft)
        found.verdicts[verdict] += 1
        if verdict is Verdict.BETTER and (gap not in best or answer.log_ratio > best[gap][1].log_ratio):
            best[gap] = piece, answer
    return best


async def _taken_together(best: Pieces, model: SteeredModel, found: Denoised) -> tuple[ScoredAnswer, int]:
    """The best answer that these pieces make, and how many of them are in it."""
    _, alone = max(best.values(), key=lambda one: one[1].log_ratio)
    pieces = [piece for piece, _ in best.values()]
    if any(_repeats(piece, pieces[:i]) for i, piece in enumerate(pieces)) or len(best) == 1:
        return alone, 1
    text = spliced(found.answer.text, {gap: piece for gap, (piece, _) in best.items()})
    # Up to the second gap it is what the first one's piece makes alone.
    earliest = min(best, key=lambda gap: gap.start)
    (together,) = await model.score([text], best[earliest][1])
    if together is None or judge(together, alone, found.draft) is not Verdict.BETTER:
        return alone, 1
    return together, len(best)


def _repeats(piece: str, texts: Sequence[str]) -> bool:
    return any(piece.strip() in text for text in texts)


def spliced(text: str, pieces: dict[Gap, str]) -> str:
    """The text with a piece in the place of each gap."""
    for gap in sorted(pieces, key=lambda gap: gap.start, reverse=True):
        text = text[: gap.start] + pieces[gap] + text[gap.end :]
    return text
