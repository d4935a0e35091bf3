"""What was trained on, from the folders of the adapters that steer: prompts that are not to be asked.

A folder says it in hashes (`training/trained_on.py`), whatever data an evaluation is given. Of an adapter
without such a folder it is not known, and every report says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steer_server.catalogue.manifest import MANIFEST, Kind, read_manifest
from steer_server.errors import CatalogueError, EvaluationError, TrainingError
from steer_server.evaluation.client import ServerInfo
from steer_server.evaluation.named_settings import GivenSetting
from steer_server.training.trained_on import TRAINED_ON, read_trained_on

if TYPE_CHECKING:
    from steer_server.evaluation.judges import Judge


@dataclass(frozen=True)
class TrainedFolder:
    """One adapter."""

    name: str
    kind: Kind
    digest: str
    hashes: frozenset[str] | None
    """Of the prompts that it was trained on; None where the folder does not say."""


def read_folders(directory: Path) -> list[TrainedFolder]:
    """The adapters of a directory, by name. Raises: EvaluationError for one that cannot be read."""
    found = []
    for path in sorted(directory.glob(f"*/{MANIFEST}")):
        try:
            manifest = read_manifest(path.parent)
            hashes = read_trained_on(path.parent)
        except (CatalogueError, TrainingError) as error:
            raise EvaluationError(f"{directory.name}/{path.parent.name}: {error}") from error
        found.append(TrainedFolder(manifest.name, manifest.kind, manifest.digest, hashes))
    return found


def seen_hashes(directory: Path) -> frozenset[str]:
    """All prompts that some adapter of a directory was trained on. Raises: EvaluationError."""
    return frozenset[str]().union(*(folder.hashes or () for folder in read_folders(directory)))


def unknown_training(
    directory: Path, info: ServerInfo, plans: Iterable[Mapping[str, Any]], judges: Sequence[Judge]
) -> list[str]:
    """What may have been trained on prompts that are asked, each with the reason why that is not known.

    Args:
        directory: of the adapters that steer, as far as they are here.
        plans: as the server described them: what they apply, and the heads that choose.

    Raises: EvaluationError for a folder that cannot be read.
    """
    here, place = {folder.name: folder for folder in read_folders(directory)}, directory.resolve().name
    served = {adapter["name"]: adapter.get("digest") for adapter in info.adapters}

    def reason(name: str) -> str:
        if name not in here:
            return f"not in {place}"
        if served.get(name, here[name].digest) != here[name].digest:
            return f"served from another folder than the one in {place}"
        return "" if here[name].hashes is not None else f"no {TRAINED_ON}"

    used = sorted({title for plan in plans for title in _titles(plan)})
    found = {title: reason(title.split("@")[0]) for title in used}
    found |= {f"judge {judge.name}": f"no {TRAINED_ON}" for judge in judges if judge.trained_on is None}
    return [f"{what} ({why})" for what, why in found.items() if why]


def unknown_sentence(unknown: Sequence[str]) -> str:
    """For a report and what is printed; empty when everything is known."""
    if not unknown:
        return ""
    return (
        f"Not known is what {', '.join(unknown)} was trained on: prompts that are asked here may be among "
        f"it. A folder says it in {TRAINED_ON}, and --adapters takes the directory that is served."
    )


def head_setting(head: str) -> GivenSetting:
    """A setting that is planned to learn which adapter a reward head is of."""
    spec = {"method": "best_of_n", "reward_heads": [head], "options": {"n": 2}}
    return GivenSetting(f"head {head}", steering_json=json.dumps(spec, sort_keys=True))


def _titles(plan: Mapping[str, Any]) -> Iterable[str]:
    """`name@version` of all that a plan needs."""
    return (*(one["adapter"] for one in plan["applied"]), *plan.get("reward_heads", {}).values())
