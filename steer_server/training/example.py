"""One thing to learn or to measure: a prompt with its possible answers. Without torch, for who only asks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """A prompt, its possible answers, and how people spread over them."""

    prompt: str
    answers: tuple[str, ...]
    shares: tuple[float, ...]
    """Share of each answer; they sum to 1."""
    is_whole: bool
    """Whether the answer ends with its text, so that the end of the turn is learnt too."""
    system: str = ""
    before: tuple[tuple[str, str], ...] = ()
    """(role, content) of the turns before the prompt."""
