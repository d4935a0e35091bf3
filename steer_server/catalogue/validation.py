"""Checks an adapter folder completely before anything of it reaches the engine.

Not covered here: whether the adapter is any good, and who made it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.manifest import (
    PEFT_CONFIG,
    WEIGHTS,
    Manifest,
    described,
    file_sha256,
    read_manifest,
)
from steer_server.catalogue.reward_head import HEAD_CONFIG, HEAD_WEIGHTS, RewardHeadConfig
from steer_server.catalogue.snapshot import LoadedAdapter, LoadedRewardHead
from steer_server.catalogue.tensor_file import parse_json, shown
from steer_server.catalogue.weights import check_head_tensors, check_lora_tensors
from steer_server.errors import CatalogueError
from steer_server.frozen.prompter_template import TEMPLATE_VERSION

MAX_WEIGHTS_BYTES = 4 * 2**30
MAX_CONFIG_BYTES = 256 * 1024
MAX_ALPHA = 1e6

MUST_BE_OFF = {
    "use_dora": (False, None),
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "lora_bias": (False, None),
    "alora_invocation_tokens": (None, []),
    "layer_replication": (None, []),
    "use_bdlora": (None, {}, False),
    "use_qalora": (None, False),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    # The others change the base model's weights when PEFT loads them.
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
}
"""PEFT options that change the maths in ways the bank does not know."""


def validate_folder(folder: Path, base: BaseModel, max_rank: int) -> LoadedAdapter | LoadedRewardHead:
    """A validated adapter or reward head, whichever the folder holds. Blocking.

    Raises: CatalogueError with a stable `reason` and the offending file or tensor.
    """
    try:
        return _validated(folder, base, max_rank)
    except OSError as error:
        if error.filename is None or folder not in Path(error.filename).parents:
            raise  # the base model's own files, say
        detail = f"{Path(error.filename).name}: {error.strerror}"
        raise CatalogueError(folder.name, "file_unreadable", detail) from error


def _validated(folder: Path, base: BaseModel, max_rank: int) -> LoadedAdapter | LoadedRewardHead:
    manifest = read_manifest(folder)
    if manifest.base_model not in base.names:
        raise CatalogueError(
            manifest.name,
            "base_model_mismatch",
            f"made for {manifest.base_model[:100]!r}, this server runs {sorted(base.names)}",
        )
    _check_files(folder, manifest)
    if manifest.kind == "reward_head":
        return _validated_head(folder, manifest, base)
    return _validated_adapter(folder, manifest, base, max_rank)


def validate_adapter(folder: Path, base: BaseModel, max_rank: int) -> LoadedAdapter:
    """As `validate_folder`, where only an adapter for the bank will do."""
    loaded = validate_folder(folder, base, max_rank)
    if not isinstance(loaded, LoadedAdapter):
        raise CatalogueError(loaded.name, "not_a_lora", "a reward head does not go into the bank")
    return loaded


def _validated_adapter(folder: Path, manifest: Manifest, base: BaseModel, max_rank: int) -> LoadedAdapter:
    name = manifest.name
    config = _read_peft_config(folder, name)
    _check_agreement(config, manifest)
    rank, scale = _rank_and_scale(config, manifest, max_rank)
    _check_own_ranks(manifest, rank)
    _check_template(manifest)
    check_lora_tensors(folder / WEIGHTS, manifest, base, rank, scale, _targets(config, name))
    return LoadedAdapter(manifest, folder, rank)


def _validated_head(folder: Path, manifest: Manifest, base: BaseModel) -> LoadedRewardHead:
    name = manifest.name
    document = _read_json(folder / HEAD_CONFIG, name, "head_config_invalid")
    try:
        config = RewardHeadConfig.model_validate(document)
    except ValidationError as error:
        raise CatalogueError(name, "head_config_invalid", f"{HEAD_CONFIG}: {described(error)}") from error
    if config.hidden_size != base.hidden_size:
        raise CatalogueError(
            name, "wrong_shape", f"hidden_size {config.hidden_size}, the model has {base.hidden_size}"
        )
    check_head_tensors(folder / HEAD_WEIGHTS, name, base.hidden_size)
    return LoadedRewardHead(manifest, folder, config)


def _check_files(folder: Path, manifest: Manifest) -> None:
    for entry in manifest.files:
        path = folder / entry.path
        if path.is_symlink() or not path.is_file():
            raise CatalogueError(manifest.name, "file_missing", f"{entry.path} is not a regular file")
        size = path.stat().st_size
        if size > MAX_WEIGHTS_BYTES:
            raise CatalogueError(manifest.name, "file_too_large", f"{entry.path}: {size} bytes")
        if size != entry.size_bytes:
            raise CatalogueError(
                manifest.name,
                "size_mismatch",
                f"{entry.path}: {size} bytes, manifest says {entry.size_bytes}",
            )
        if file_sha256(path) != entry.sha256:
            raise CatalogueError(manifest.name, "sha256_mismatch", entry.path)


def _read_json(path: Path, name: str, reason: str) -> dict[str, Any]:
    if (size := path.stat().st_size) > MAX_CONFIG_BYTES:
        raise CatalogueError(name, "file_too_large", f"{path.name}: {size} bytes")
    return parse_json(path.read_bytes(), name, path.name, reason)


def _read_peft_config(folder: Path, name: str) -> dict[str, Any]:
    config = _read_json(folder / PEFT_CONFIG, name, "peft_config_unreadable")
    if config.get("peft_type") != "LORA":
        raise CatalogueError(name, "not_a_lora", f"{PEFT_CONFIG}: peft_type is not LORA")
    for key, allowed in MUST_BE_OFF.items():
        if key in config and config[key] not in allowed:
            value = repr(config[key])[:100]
            raise CatalogueError(name, "unsupported_option", f"{PEFT_CONFIG}: {key} = {shown(value)}")
    if not isinstance(config.get("use_rslora", False), bool):
        raise CatalogueError(name, "unsupported_option", f"{PEFT_CONFIG}: use_rslora is not true or false")
    return config


def _check_agreement(config: dict[str, Any], manifest: Manifest) -> None:
    """PEFT's own field for the base model may hold a path or an owner: the last parts are compared."""
    stated = config.get("base_model_name_or_path")
    if stated in (None, ""):
        return
    if str(stated).rstrip("/").rsplit("/", 1)[-1] != manifest.base_model.rsplit("/", 1)[-1]:
        raise CatalogueError(
            manifest.name,
            "peft_config_disagrees",
            f"{PEFT_CONFIG} is for {shown(str(stated)[:100])}, the manifest for {manifest.base_model[:100]}",
        )


def _targets(config: dict[str, Any], name: str) -> list[str] | None:
    """Names of target layers, or None for all linear ones. A pattern is refused: one that was made to take
    for ever would."""
    targets = config.get("target_modules")
    if targets in (None, "all-linear"):
        return None
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise CatalogueError(
            name, "unsupported_option", f"{PEFT_CONFIG}: target_modules must be a list of names"
        )
    return targets


def _check_own_ranks(manifest: Manifest, rank: int) -> None:
    """Axes and anchors have ranks that are there, and no rank beside the anchors' is left ungated."""
    carried: set[int] = set()
    for part, ranks in manifest.own_ranks.items():
        if ranks[-1] >= rank:
            reason = "anchor_out_of_range" if manifest.anchors else "axis_out_of_range"
            raise CatalogueError(manifest.name, reason, f"{part} has rank {ranks[-1]} of 0 to {rank - 1}")
        carried.update(ranks)
    if manifest.anchors and (idle := set(range(rank)) - carried):
        raise CatalogueError(
            manifest.name, "rank_without_anchor", f"rank {min(idle)} is in no anchor's `ranks`"
        )


def _check_template(manifest: Manifest) -> None:
    version = TEMPLATE_VERSION if manifest.prompter is None else manifest.prompter.template_version
    if version != TEMPLATE_VERSION:
        raise CatalogueError(
            manifest.name,
            "template_unknown",
            f"the prompter was trained with template {version}, this server asks with {TEMPLATE_VERSION}",
        )


def _rank_and_scale(config: dict[str, Any], manifest: Manifest, max_rank: int) -> tuple[int, float]:
    name = manifest.name
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise CatalogueError(name, "bad_rank", f"{PEFT_CONFIG}: r = {repr(rank)[:40]}")
    if rank > max_rank:
        together = f" ({len(manifest.anchors)} anchors together)" if manifest.anchors else ""
        raise CatalogueError(
            name,
            "rank_too_large",
            f"rank {str(rank)[:40]}{together}, this server's bank has rank {max_rank} (--bank-rank)",
        )
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha <= MAX_ALPHA:
        raise CatalogueError(
            name, "bad_alpha", f"{PEFT_CONFIG}: lora_alpha = {repr(alpha)[:40]}, not in (0, {MAX_ALPHA:.0f}]"
        )
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
