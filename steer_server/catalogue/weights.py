"""Checks the tensors of adapters and reward heads: names, shapes, types, and that every number is usable."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.manifest import Manifest
from steer_server.catalogue.tensor_file import TensorInfo, read_tensor_header, shown
from steer_server.errors import CatalogueError, without_path

if TYPE_CHECKING:
    import torch

MAX_DELTA_NORM = 1e4
"""Largest Frobenius norm of one layer's scaled update; trained adapters lie below 100."""
MAX_HEAD_NORM = 1e3
"""Largest ‖w‖ and |b| of a reward head; trained ones lie below 10 and 100."""
MAX_ENTRY = 6e4
"""Largest number in A and in scale·B: the bank may be float16, which ends at 65504."""
FREE_HEADER_BYTES = 64 * 1024
HEADER_BYTES_PER_TENSOR = 512
"""Names have about 80 characters, shapes and offsets 80 more."""

TENSOR_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<half>[AB])\.weight")
FLOAT_DTYPES = ("F32", "F16", "BF16")


def check_lora_tensors(
    path: Path,
    manifest: Manifest,
    base: BaseModel,
    rank: int,
    scale: float,
    targets: Collection[str] | None,
) -> None:
    """Every tensor is half an update of a linear layer that the model has, and the updates do something.

    Args:
        scale: alpha/rank, or alpha/√rank.
        targets: `target_modules` of the PEFT config; None when it names no layers.

    Raises: CatalogueError: foreign_tensor, wrong_shape, wrong_dtype, no_tensors, half_a_pair,
        peft_config_disagrees, not_finite, norm_too_large, no_effect, axis_no_effect, anchor_no_effect,
        weights_unreadable, and what `read_tensor_header` raises.
    """
    name = manifest.name
    max_header = FREE_HEADER_BYTES + HEADER_BYTES_PER_TENSOR * 2 * len(base.linear_shapes)
    tensors = read_tensor_header(path, name, max_header)
    modules = _paired_modules(tensors, name, base, rank)
    if not modules:
        raise CatalogueError(name, "no_tensors", path.name)
    if targets is not None:
        _check_targets(modules, name, targets)
    part_norms = dict.fromkeys(manifest.own_ranks, 0.0)
    largest = 0.0
    with _opened(path, name) as weights:
        for module in modules:
            a_R_in, b_out_R = (
                _finite(weights, f"base_model.model.{module}.lora_{half}.weight", name, by)
                for half, by in (("A", 1.0), ("B", scale))
            )
            # ‖BA‖² = tr(BᵀB AAᵀ), without forming the product
            norm = float(((b_out_R.T @ b_out_R) * (a_R_in @ a_R_in.T)).sum().clamp(min=0)) ** 0.5
            if not norm <= MAX_DELTA_NORM:
                raise CatalogueError(name, "norm_too_large", f"{module}: ‖ΔW‖ = {norm:.3g}")
            largest = max(largest, norm)
            for part, ranks in manifest.own_ranks.items():
                part_norms[part] += float((b_out_R[:, ranks].norm(dim=0) * a_R_in[ranks].norm(dim=1)).sum())
    if largest == 0:
        raise CatalogueError(name, "no_effect", f"{path.name}: every update is zero")
    if idle := [part for part, norm in part_norms.items() if norm == 0]:
        reason = "anchor_no_effect" if manifest.anchors else "axis_no_effect"
        raise CatalogueError(name, reason, f"{idle[0]}: its update is zero in every layer")


def check_head_tensors(path: Path, name: str, hidden_size: int) -> None:
    """`weight` `[hidden]` and `bias` `[1]`, float32.

    Raises: CatalogueError: foreign_tensor, no_tensors, wrong_shape, wrong_dtype, not_finite, norm_too_large,
        no_effect, weights_unreadable, and what `read_tensor_header` raises.
    """
    tensors = read_tensor_header(path, name, FREE_HEADER_BYTES)
    expected = {"weight": (hidden_size,), "bias": (1,)}
    if foreign := set(tensors) - set(expected):
        raise CatalogueError(name, "foreign_tensor", shown(min(foreign)))
    if missing := set(expected) - set(tensors):
        raise CatalogueError(name, "no_tensors", min(missing))
    for key, shape in expected.items():
        _check_shape(tensors[key], key, name, shape)
        if tensors[key].dtype != "F32":
            raise CatalogueError(name, "wrong_dtype", f"{key}: {tensors[key].dtype}")
    with _opened(path, name) as weights:
        norms = {key: float(_finite(weights, key, name, 1.0).norm()) for key in expected}
    for key, norm in norms.items():
        if norm > MAX_HEAD_NORM:
            raise CatalogueError(name, "norm_too_large", f"‖{key}‖ = {norm:.3g}")
    if norms["weight"] == 0:
        raise CatalogueError(name, "no_effect", "weight is zero: every text would score the same")


def _paired_modules(tensors: dict[str, TensorInfo], name: str, base: BaseModel, rank: int) -> list[str]:
    halves: dict[str, set[str]] = {}
    for key, info in tensors.items():
        match = TENSOR_NAME.fullmatch(key)
        if match is None:
            raise CatalogueError(name, "foreign_tensor", shown(key))
        module, half = match["module"], match["half"]
        if module not in base.linear_shapes:
            raise CatalogueError(name, "foreign_tensor", f"{shown(key)}: the model has no such linear layer")
        out_features, in_features = base.linear_shapes[module]
        _check_shape(info, key, name, (rank, in_features) if half == "A" else (out_features, rank))
        if info.dtype not in FLOAT_DTYPES:
            raise CatalogueError(name, "wrong_dtype", f"{key}: {info.dtype}")
        halves.setdefault(module, set()).add(half)
    for module, found in halves.items():
        if len(found) != 2:
            raise CatalogueError(name, "half_a_pair", f"{module} has only lora_{min(found)}")
    return list(halves)


def _check_shape(info: TensorInfo, key: str, name: str, expected: tuple[int, ...]) -> None:
    if info.shape != expected:
        raise CatalogueError(
            name, "wrong_shape", f"{key}: {list(info.shape)}, the model needs {list(expected)}"
        )


def _check_targets(modules: list[str], name: str, targets: Collection[str]) -> None:
    """PEFT would apply exactly the tensors that are there: no layer more, no layer less."""
    unused = set(targets)
    for module in modules:
        parts = module.split(".")
        matching = {".".join(parts[i:]) for i in range(len(parts))} & set(targets)
        if not matching:
            raise CatalogueError(
                name, "peft_config_disagrees", f"{module} has tensors and is not in target_modules"
            )
        unused -= matching
    if unused:
        raise CatalogueError(
            name, "peft_config_disagrees", f"target_modules has {shown(min(unused))} and no tensor does"
        )


def _opened(path: Path, name: str) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CatalogueError(name, "weights_unreadable", f"{path.name}: {without_path(error)}") from error


def _finite(weights: Any, key: str, name: str, factor: float) -> torch.Tensor:
    """The tensor times the factor, in float64."""
    import torch

    tensor: torch.Tensor = weights.get_tensor(key).to(torch.float64) * factor
    if not bool(tensor.isfinite().all()):
        raise CatalogueError(name, "not_finite", key)
    if (entry := float(tensor.abs().max())) > MAX_ENTRY:
        raise CatalogueError(name, "norm_too_large", f"{key}: an entry of {entry:.3g}")
    return tensor
