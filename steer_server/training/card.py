"""What every trained adapter's card says of where it came from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from steer_server.catalogue.manifest import DataSource
from steer_server.evaluation.report import provenance


def origin(training_seconds: float, sources: Sequence[DataSource], licence: str) -> str:
    """Markdown: the command, commit and hardware that made it, how long it took, and what data it saw."""
    made = provenance()
    hardware = made["hardware"]
    return f"""`recipe.json` has all settings. Made by `{made["command"]}`
at commit {made["commit"]} in {training_seconds} s on {hardware["processor"]},
{hardware["cores"]} cores.
No row of the data is in this folder.

Data:

{bullets(f"{source.source} ({source.licence})" for source in sources) or "- not stated"}

Licence: {licence or "not stated"}."""


def bullets(items: Iterable[str]) -> str:
    """A Markdown list; empty for no items."""
    return "\n".join(f"- {item}" for item in items)
