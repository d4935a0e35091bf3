"""Answers scored by hand: a token is a word with the space before it, and the tables say all else."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from steer_server.frozen.gaps import Gap
from steer_server.frozen.scored_answer import ScoredAnswer

Scores = Mapping[str, tuple[float, float]]
"""Word -> (r_t, log π_ref)."""
UNKNOWN = (0.0, -1.0)


def scored(text: str, scores: Scores) -> ScoredAnswer:
    words = list(re.finditer(r"\S+", text))
    rows = [scores.get(word[0], UNKNOWN) for word in words]
    return ScoredAnswer(
        text,
        token_ids=[sum(word[0].encode()) for word in words],
        ends=[word.end() for word in words],
        steered=[ratio + reference for ratio, reference in rows],
        reference=[reference for _, reference in rows],
    )


@dataclass
class TableModel:
    """`SteeredModel`: what it draws and how it scores is written down. It counts its rounds."""

    scores: Scores
    fillings: Callable[[Gap], list[str]]
    longest: int = 1000
    """In words."""
    rounds: list[tuple[str, int]] = field(default_factory=list)
    """(what was asked for, how many)."""

    async def score(
        self, answers: Sequence[str], known: ScoredAnswer | None = None
    ) -> list[ScoredAnswer | None]:
        self.rounds.append(("score", len(answers)))
        return [scored(one, self.scores) if len(one.split()) <= self.longest else None for one in answers]

    async def draw(self, gaps: Sequence[Gap]) -> list[list[str]]:
        self.rounds.append(("draw", len(gaps)))
        return [self.fillings(gap) for gap in gaps]
