"""Rollouts of policy optimisation, and their file, from which a run that was stopped takes what it had asked.

A checkpoint is older than the last steps. Repeating those takes the same rewrites and rewards from the file,
so the run ends where one in one go does, though no server repeats its answers to the bit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Rollout:
    """One sampled rewrite and what it was worth."""

    prompt: str
    ids: tuple[int, ...]
    """As sampled, with the end of the turn if that was reached."""
    rewrite: str
    reason: str
    """Why it may not be sent; empty when it may."""
    reward: float


class RolloutFile:
    """Rollouts by step: a line that names the run, then one for each step.

    Args:
        run: fingerprint of the run's settings. A file of another run is begun anew.
    """

    def __init__(self, path: Path, run: str) -> None:
        self.path = path
        self._steps: dict[int, tuple[Rollout, ...]] = {}
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        # A line without its end was being written when the run was killed.
        whole = [json.loads(line) for line in lines if line.endswith("\n")]
        if not whole or whole[0] != {"run": run}:
            whole = [{"run": run}]
        self._steps = {line["step"]: tuple(map(_rollout, line["rollouts"])) for line in whole[1:]}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in whole))

    def get(self, step: int) -> tuple[Rollout, ...] | None:
        return self._steps.get(step)

    def add(self, step: int, rollouts: Sequence[Rollout]) -> tuple[Rollout, ...]:
        self._steps[step] = tuple(rollouts)
        line = {"step": step, "rollouts": [asdict(rollout) for rollout in rollouts]}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return self._steps[step]

    def curve(self, num_parts: int) -> list[dict[str, float]]:
        """How training went: mean reward and share of failed rewrites, over so many equal parts of the steps
        (fewer where there are fewer steps)."""
        steps = sorted(self._steps)
        num_parts = min(num_parts, len(steps))
        parts = []
        for part in range(num_parts):
            first, end = (len(steps) * i // num_parts for i in (part, part + 1))
            rollouts = [rollout for step in steps[first:end] for rollout in self._steps[step]]
            parts.append(
                {
                    "last_step": steps[end - 1] + 1,
                    "mean_reward": sum(r.reward for r in rollouts) / len(rollouts),
                    "failed_share": sum(bool(r.reason) for r in rollouts) / len(rollouts),
                }
            )
        return parts


def _rollout(line: dict[str, Any]) -> Rollout:
    return Rollout(**{**line, "ids": tuple(line["ids"])})
