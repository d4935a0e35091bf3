"""`trained_on.txt` in an adapter's folder: by it others can tell whether a prompt that they are about to ask
was trained on, and nobody can read what was.

    line = the first 16 hex digits of sha256(same_prompt(unit))

A unit is what data are split by: mostly a prompt, for judgements of single texts a country or a post. Copies
that differ in case, space and punctuation have one line. The manifest lists the file, so that it is checked,
signed and shipped with the weights.

Not covered: prompts that mean the same in other words; whether somebody who has a prompt guesses that it was
trained on, which is the purpose.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from steer_server.errors import TrainingError
from steer_server.training.align_pro_data import same_prompt

TRAINED_ON = "trained_on.txt"
HEADER = "# sha256, its first 16 hex digits, of the words of every prompt that this was trained on."
LINE = re.compile(r"[0-9a-f]{16}")


def prompt_hash(unit: str) -> str:
    """Equal for copies of a prompt."""
    return hashlib.sha256(same_prompt(unit).encode()).hexdigest()[:16]


def trained_on_text(units: Iterable[str]) -> str:
    """The file's text: sorted, so that it does not say in which order training saw them."""
    return trained_on_lines(map(prompt_hash, units))


def trained_on_lines(hashes: Iterable[str]) -> str:
    """The same of hashes."""
    return "".join(f"{line}\n" for line in (HEADER, *sorted(set(hashes))))


def read_trained_on(folder: Path) -> frozenset[str] | None:
    """The hashes; None for a folder without the file, of which it is not known what it was trained on.

    Raises: TrainingError for a file that cannot be read or is none of these.
    """
    path = folder / TRAINED_ON
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise TrainingError(f"cannot read {folder.name}/{TRAINED_ON}: {error}") from error
    if not lines or lines[0][:1] != "#" or not all(map(LINE.fullmatch, lines[1:])):
        raise TrainingError(f"{folder.name}/{TRAINED_ON} is not a comment and lines of 16 hex digits")
    return frozenset(lines[1:])
