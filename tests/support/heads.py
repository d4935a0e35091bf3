"""Reward heads made on the spot: random weights, complete with manifest."""

from __future__ import annotations

from pathlib import Path

import torch

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.folders import write_reward_head_folder
from steer_server.catalogue.manifest import CultureInfo, Manifest
from steer_server.catalogue.reward_head import Calibration, RewardHeadConfig, TextFormat
from steer_server.catalogue.snapshot import LoadedRewardHead
from steer_server.catalogue.validation import validate_folder


def random_head(
    parent: Path,
    name: str,
    base: BaseModel,
    *,
    head: str = "",
    culture: str | None = None,
    version: str = "1.0.0",
    max_tokens: int = 256,
    scale: float = 1.0,
    seed: int | None = None,
) -> Manifest:
    """Writes `parent/name`.

    Args:
        head: its id; the name without `head-` unless given.
        scale: of the calibration.
    """
    generator = torch.Generator().manual_seed(seed if seed is not None else sum(map(ord, name + version)))
    config = RewardHeadConfig(
        schema_version=1,
        hidden_size=base.hidden_size,
        layer="final_norm",
        text_format=TextFormat(layout="conversation", max_tokens=max_tokens),
        model="logistic",
        label_meaning="somebody likes it",
        calibration=Calibration(scale=scale),
        split="steer",
    )
    return write_reward_head_folder(
        parent / name,
        name=name,
        version=version,
        head=head or name.removeprefix("head-"),
        base_model=sorted(base.names)[0],
        weight=torch.randn(base.hidden_size, generator=generator) / base.hidden_size**0.5,
        bias=0.1,
        config=config,
        culture=CultureInfo(id=culture) if culture else None,
    )


def loaded_head(
    parent: Path, name: str, base: BaseModel, *, version: str = "1.0.0", seed: int | None = None
) -> LoadedRewardHead:
    """One that was validated, as the catalogue has it."""
    random_head(parent / version, name, base, version=version, seed=seed)
    loaded = validate_folder(parent / version / name, base, max_rank=8)
    assert isinstance(loaded, LoadedRewardHead)
    return loaded
