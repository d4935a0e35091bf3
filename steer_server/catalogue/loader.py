"""Reads a directory of adapters into a catalogue. A bad adapter is refused by itself; the others load."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.manifest import MANIFEST
from steer_server.catalogue.snapshot import Catalogue, LoadedAdapter, LoadedRewardHead
from steer_server.catalogue.validation import validate_folder
from steer_server.errors import CatalogueError, ConfigError
from steer_server.settings import Settings

DEFAULT_RANK = 8
AUTOMATIC_RANK_LIMIT = 64
"""No folder makes the bank larger than this by itself; above it the operator says so with --bank-rank."""

logger = logging.getLogger("steer_server.catalogue")


@dataclass(frozen=True)
class RefusedAdapter:
    """A folder that was not loaded, and why."""

    folder_name: str
    reason: str
    detail: str


def load_directory(
    directory: Path | None, base: BaseModel, max_rank: int
) -> tuple[Catalogue, tuple[RefusedAdapter, ...]]:
    """The catalogue of every valid adapter folder directly below `directory`, and what was refused.

    Raises: ConfigError when the directory does not exist.
    """
    if directory is None:
        return Catalogue(), ()
    if not directory.is_dir():
        raise ConfigError(f"--adapters {directory}: no such directory")
    catalogue, refused = Catalogue(), []
    for folder in sorted(path for path in directory.iterdir() if (path / MANIFEST).exists()):
        try:
            loaded = validate_folder(folder.resolve(), base, max_rank)
            catalogue = with_loaded(catalogue, loaded)
        except CatalogueError as error:
            logger.error("refused %s: %s", folder.name, error)
            refused.append(RefusedAdapter(folder.name, error.reason, error.detail))
    return catalogue, tuple(refused)


def with_loaded(catalogue: Catalogue, loaded: LoadedAdapter | LoadedRewardHead) -> Catalogue:
    """A new snapshot with one more adapter or reward head.

    Raises: CatalogueError when its name, culture, axis or head is taken.
    """
    return Catalogue.of([*catalogue.adapters, *catalogue.reward_heads.values(), loaded])


def with_bank_size(settings: Settings, stored: Path | None = None) -> Settings:
    """The same settings with the bank's rank decided: as given, else by the adapters that are there.

    Args:
        stored: directory of the versions that the catalogue has stored on this machine.
    """
    rank = settings.bank_rank or max(largest_rank(settings.adapters), largest_rank(stored)) or DEFAULT_RANK
    return settings.model_copy(update={"bank_rank": rank})


def largest_rank(directory: Path | None) -> int:
    """The largest rank that an adapter below `directory` declares; 0 without any.

    Read before the engine starts; unreadable configs and impossible ranks count for nothing here and are
    refused by `load_directory` later.
    """
    largest = 0
    for config in sorted(directory.glob("*/adapter_config.json")) if directory else []:
        try:
            rank = json.loads(config.read_text()).get("r")
        except (ValueError, OSError, AttributeError):
            continue
        if isinstance(rank, int) and not isinstance(rank, bool) and rank <= AUTOMATIC_RANK_LIMIT:
            largest = max(largest, rank)
    return largest
