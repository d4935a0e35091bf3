"""Checks an adapter folder completely before anything of it reaches the engine.

Not covered here: whether the adapter is any good, and who made it.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.manifest import PEFT_CONFIG, WEIGHTS, Manifest, file_sha256, read_manifest
from steer_server.catalogue.reward_head import HEAD_CONFIG, HEAD_WEIGHTS, RewardHeadConfig
from steer_server.catalogue.snapshot import LoadedAdapter, LoadedRewardHead
from steer_server.errors import CatalogueError

MAX_WEIGHTS_BYTES = 4 * 2**30
MAX_DELTA_NORM = 1e4
"""Largest Frobenius norm of one layer's scaled update; trained adapters lie below 100."""
MAX_HEAD_NORM = 1e3
"""Largest ‖w‖ and |b| of a reward head; trained ones lie below 10 and 100."""

TENSOR_NAME = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<half>[AB])\.weight$")
FLOAT_DTYPES = ("F32", "F16", "BF16")

MUST_BE_OFF = {
    "use_dora": (False, None),
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "lora_bias": (False, None),
    "alora_invocation_tokens": (None,),
}
"""PEFT options that change the maths in ways the bank does not know."""


def validate_folder(folder: Path, base: BaseModel, max_rank: int) -> LoadedAdapter | LoadedRewardHead:
    """A validated adapter or reward head, whichever the folder holds.

    Raises: CatalogueError with a stable `reason` and the offending file or tensor.
    """
    manifest = read_manifest(folder)
    if manifest.base_model not in base.names:
        raise CatalogueError(
            manifest.name,
            "base_model_mismatch",
            f"made for {manifest.base_model!r}, this server runs {sorted(base.names)}",
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
    rank, scale = _rank_and_scale(config, name, max_rank)
    for axis in manifest.axes:
        if axis.rank_index >= rank:
            raise CatalogueError(
                name, "axis_out_of_range", f"axis {axis.id} has rank_index {axis.rank_index} of {rank}"
            )
    _check_tensors(folder / WEIGHTS, name, base, rank, scale)
    return LoadedAdapter(manifest, folder, rank)


def _validated_head(folder: Path, manifest: Manifest, base: BaseModel) -> LoadedRewardHead:
    name = manifest.name
    try:
        config = RewardHeadConfig.model_validate_json((folder / HEAD_CONFIG).read_bytes())
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise CatalogueError(name, "head_config_invalid", f"{HEAD_CONFIG}: {details}") from error
    if config.hidden_size != base.hidden_size:
        raise CatalogueError(
            name, "wrong_shape", f"hidden_size {config.hidden_size}, the model has {base.hidden_size}"
        )
    _check_head_tensors(folder / HEAD_WEIGHTS, name, base.hidden_size)
    return LoadedRewardHead(manifest, folder, config)


def _check_head_tensors(path: Path, name: str, hidden_size: int) -> None:
    from safetensors import SafetensorError, safe_open

    expected = {"weight": [hidden_size], "bias": [1]}
    try:
        with safe_open(path, framework="pt") as tensors:
            if foreign := set(tensors.keys()) - set(expected):
                raise CatalogueError(name, "foreign_tensor", ", ".join(sorted(foreign)))
            if missing := set(expected) - set(tensors.keys()):
                raise CatalogueError(name, "no_tensors", ", ".join(sorted(missing)))
            for key, shape in expected.items():
                found = tensors.get_slice(key)
                if found.get_shape() != shape:
                    raise CatalogueError(
                        name, "wrong_shape", f"{key}: {found.get_shape()}, the model needs {shape}"
                    )
                if found.get_dtype() != "F32":
                    raise CatalogueError(name, "wrong_dtype", f"{key}: {found.get_dtype()}")
                tensor = tensors.get_tensor(key)
                if not tensor.isfinite().all():
                    raise CatalogueError(name, "not_finite", key)
                if (norm := float(tensor.double().norm())) > MAX_HEAD_NORM:
                    raise CatalogueError(name, "norm_too_large", f"‖{key}‖ = {norm:.3g}")
    except (SafetensorError, OSError) as error:
        raise CatalogueError(name, "weights_unreadable", f"{path.name}: {error}") from error


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


def _read_peft_config(folder: Path, name: str) -> dict[str, Any]:
    try:
        config = json.loads((folder / PEFT_CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CatalogueError(name, "peft_config_unreadable", f"{PEFT_CONFIG}: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise CatalogueError(name, "not_a_lora", f"{PEFT_CONFIG}: peft_type is not LORA")
    for key, allowed in MUST_BE_OFF.items():
        if key in config and config[key] not in allowed:
            raise CatalogueError(name, "unsupported_option", f"{PEFT_CONFIG}: {key} = {config[key]!r}")
    return config


def _rank_and_scale(config: dict[str, Any], name: str, max_rank: int) -> tuple[int, float]:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise CatalogueError(name, "bad_rank", f"{PEFT_CONFIG}: r = {rank!r}")
    if rank > max_rank:
        raise CatalogueError(
            name, "rank_too_large", f"rank {rank}, this server's bank has rank {max_rank} (--bank-rank)"
        )
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise CatalogueError(name, "bad_alpha", f"{PEFT_CONFIG}: lora_alpha = {alpha!r}")
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _check_tensors(path: Path, name: str, base: BaseModel, rank: int, scale: float) -> None:
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as weights:
            halves: dict[str, set[str]] = {}
            for key in weights.keys():  # noqa: SIM118 (not a dict)
                match = TENSOR_NAME.match(key)
                if match is None:
                    raise CatalogueError(name, "foreign_tensor", key)
                module, half = match["module"], match["half"]
                if module not in base.linear_shapes:
                    raise CatalogueError(name, "foreign_tensor", f"{key}: the model has no such linear layer")
                out_features, in_features = base.linear_shapes[module]
                expected = [rank, in_features] if half == "A" else [out_features, rank]
                found = weights.get_slice(key)
                if found.get_shape() != expected:
                    raise CatalogueError(
                        name, "wrong_shape", f"{key}: {found.get_shape()}, the model needs {expected}"
                    )
                if found.get_dtype() not in FLOAT_DTYPES:
                    raise CatalogueError(name, "wrong_dtype", f"{key}: {found.get_dtype()}")
                halves.setdefault(module, set()).add(half)
            if not halves:
                raise CatalogueError(name, "no_tensors", path.name)
            for module, found_halves in halves.items():
                if len(found_halves) != 2:
                    raise CatalogueError(name, "half_a_pair", f"{module} has only lora_{found_halves.pop()}")
                prefix = f"base_model.model.{module}"
                a = weights.get_tensor(f"{prefix}.lora_A.weight").to(torch.float64)
                b = weights.get_tensor(f"{prefix}.lora_B.weight").to(torch.float64)
                for half, tensor in (("A", a), ("B", b)):
                    if not tensor.isfinite().all():
                        raise CatalogueError(name, "not_finite", f"{prefix}.lora_{half}.weight")
                # ‖BA‖² = tr(BᵀB AAᵀ), without forming the product
                norm = abs(scale) * float(((b.T @ b) * (a @ a.T)).sum().clamp(min=0)) ** 0.5
                if norm > MAX_DELTA_NORM:
                    raise CatalogueError(name, "norm_too_large", f"{module}: ‖ΔW‖ = {norm:.3g}")
    except (SafetensorError, OSError) as error:
        raise CatalogueError(name, "weights_unreadable", f"{path.name}: {error}") from error
