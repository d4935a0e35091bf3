"""Writes adapter folders: files first, the manifest last, so that a folder with one is complete."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from steer_server.catalogue.anchors import Anchor
from steer_server.catalogue.manifest import (
    CARD,
    MANIFEST,
    PEFT_CONFIG,
    WEIGHTS,
    CultureInfo,
    DataSource,
    FileEntry,
    Kind,
    Manifest,
    PrompterInfo,
    ValueAxis,
    file_sha256,
)
from steer_server.catalogue.reward_head import HEAD_CONFIG, HEAD_WEIGHTS, RewardHeadConfig


def describe_files(folder: Path, names: Sequence[str]) -> tuple[FileEntry, ...]:
    return tuple(
        FileEntry(path=n, size_bytes=(folder / n).stat().st_size, sha256=file_sha256(folder / n))
        for n in names
    )


def write_adapter_folder(
    folder: Path,
    *,
    name: str,
    version: str,
    kind: Kind,
    base_model: str,
    rank: int,
    alpha: float,
    target_modules: Sequence[str],
    tensors: Mapping[str, Any],
    description: str = "",
    licence: str = "",
    culture: CultureInfo | None = None,
    axes: Sequence[ValueAxis] = (),
    anchors: Sequence[Anchor] = (),
    prompter: PrompterInfo | None = None,
    data: Sequence[DataSource] = (),
    card: str = "",
    listed: Mapping[str, str] | None = None,
    extra: Mapping[str, str] | None = None,
) -> Manifest:
    """Writes a complete adapter folder that PEFT can open as it is.

    Args:
        tensors: PEFT's names (`base_model.model....lora_A.weight`) to tensors.
        listed: further text files by name that the manifest's `files` lists.
        extra: those that it does not.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / WEIGHTS)
    peft_config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "inference_mode": True,
        "target_modules": sorted(target_modules),
    }
    (folder / PEFT_CONFIG).write_text(json.dumps(peft_config, indent=2) + "\n")
    texts = {**(listed or {}), **(extra or {})}
    if card:
        texts[CARD] = card
    for file_name, text in texts.items():
        (folder / file_name).write_text(text)
    manifest = Manifest(
        schema_version=1,
        name=name,
        version=version,
        kind=kind,
        description=description,
        base_model=base_model,
        licence=licence,
        culture=culture,
        axes=tuple(axes),
        anchors=tuple(anchors),
        prompter=prompter,
        files=describe_files(folder, [PEFT_CONFIG, WEIGHTS, *(listed or {})]),
        data=tuple(data),
    )
    _write_manifest(folder, manifest)
    return manifest


def write_reward_head_folder(
    folder: Path,
    *,
    name: str,
    version: str,
    head: str,
    base_model: str,
    weight: Any,
    bias: float,
    config: RewardHeadConfig,
    description: str = "",
    licence: str = "",
    culture: CultureInfo | None = None,
    data: Sequence[DataSource] = (),
    card: str = "",
    listed: Mapping[str, str] | None = None,
    extra: Mapping[str, str] | None = None,
) -> Manifest:
    """Writes a complete reward head folder.

    Args:
        weight: w of `raw = w·h + b`, `[hidden]`.
        listed: further text files by name that the manifest's `files` lists.
        extra: those that it does not.
    """
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "weight": torch.as_tensor(weight, dtype=torch.float32).contiguous(),
        "bias": torch.tensor([bias], dtype=torch.float32),
    }
    save_file(tensors, folder / HEAD_WEIGHTS)
    texts = {HEAD_CONFIG: json.dumps(config.model_dump(mode="json"), indent=2) + "\n"}
    texts |= {**(listed or {}), **(extra or {})}
    if card:
        texts[CARD] = card
    for file_name, text in texts.items():
        (folder / file_name).write_text(text)
    manifest = Manifest(
        schema_version=1,
        name=name,
        version=version,
        kind="reward_head",
        description=description,
        base_model=base_model,
        licence=licence,
        culture=culture,
        head=head,
        files=describe_files(folder, [HEAD_CONFIG, HEAD_WEIGHTS, *(listed or {})]),
        data=tuple(data),
    )
    _write_manifest(folder, manifest)
    return manifest


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    document = manifest.model_dump(mode="json", exclude_defaults=True)
    (folder / MANIFEST).write_text(yaml.safe_dump(document, sort_keys=False, width=100))
