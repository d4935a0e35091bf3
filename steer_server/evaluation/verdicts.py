"""What a run was to show, and whether it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from steer_server.errors import EvaluationError
from steer_server.evaluation.html import Table


@dataclass(frozen=True)
class Verdict:
    """One thing that the run was to show. `is_shown` is None where this run cannot tell."""

    name: str
    is_shown: bool | None
    detail: str


def verdict_table(found: Sequence[Verdict]) -> Table:
    words = {True: "yes", False: "NO", None: "cannot tell"}
    return Table(["to be shown", "shown", "how"], [[v.name, words[v.is_shown], v.detail] for v in found])


def check_shown(found: Sequence[Verdict], out: Path) -> None:
    """To be called when the report is in `out`. Raises: EvaluationError that names what is not shown."""
    if failed := [verdict.name for verdict in found if verdict.is_shown is False]:
        raise EvaluationError(f"not shown: {', '.join(failed)}; see {out / 'report.html'}")
