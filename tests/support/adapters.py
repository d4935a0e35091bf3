"""Adapters made on the spot: random weights for a tiny or the built-in model, complete with manifest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.folders import describe_files, write_adapter_folder
from steer_server.catalogue.manifest import (
    MANIFEST,
    CultureInfo,
    Manifest,
    PrompterInfo,
    ValueAxis,
    read_manifest,
)
from steer_server.catalogue.snapshot import Catalogue, LoadedAdapter

TINY = "tiny-llama"
TINY_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


def tiny_base_model(folder: Path) -> BaseModel:
    """A Llama with two small layers; only its config exists."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(TINY_CONFIG))
    return BaseModel(str(folder), "fake", frozenset({TINY}))


def random_adapter(
    parent: Path,
    name: str,
    base: BaseModel,
    *,
    rank: int = 4,
    axes: Sequence[str] = (),
    prompter: PrompterInfo | None = None,
    size: float = 0.02,
    seed: int | None = None,
    version: str = "1.0.0",
) -> Manifest:
    """Writes `parent/name`: a `lora` for the culture `name`, or a `panacea` with the given axes on its last
    ranks, or a `prompter`."""
    generator = torch.Generator().manual_seed(seed if seed is not None else sum(map(ord, name)))
    tensors = {}
    for module, (out_features, in_features) in base.linear_shapes.items():
        prefix = f"base_model.model.{module}"
        a = torch.randn(rank, in_features, generator=generator) / in_features**0.5
        b = torch.randn(out_features, rank, generator=generator) * size
        tensors[f"{prefix}.lora_A.weight"], tensors[f"{prefix}.lora_B.weight"] = a.bfloat16(), b.bfloat16()
    first_axis = rank - len(axes)
    return write_adapter_folder(
        parent / name,
        name=name,
        version=version,
        kind="prompter" if prompter else "panacea" if axes else "lora",
        base_model=sorted(base.names)[0],
        rank=rank,
        alpha=rank,
        target_modules=base.linear_suffixes,
        tensors=tensors,
        description=f"random weights, {name}",
        culture=None if axes or prompter else CultureInfo(id=name, countries=("ATA",)),
        prompter=prompter,
        axes=[ValueAxis(id=axis, rank_index=first_axis + i) for i, axis in enumerate(axes)],
    )


def planned_catalogue(cultures: Sequence[str], panaceas: dict[str, Sequence[str]] | None = None) -> Catalogue:
    """A catalogue for planning alone: manifests with no files behind them."""

    def adapter(name: str, axes: Sequence[str]) -> LoadedAdapter:
        files = [
            {"path": path, "size_bytes": 1, "sha256": "0" * 64}
            for path in ("adapter_config.json", "adapter_model.safetensors")
        ]
        manifest = Manifest.model_validate(
            {
                "schema_version": 1,
                "name": name,
                "version": "1.0.0",
                "kind": "panacea" if axes else "lora",
                "base_model": TINY,
                "culture": None if axes else {"id": name},
                "axes": [{"id": axis, "rank_index": 2 + i} for i, axis in enumerate(axes)],
                "files": files,
            }
        )
        return LoadedAdapter(manifest, Path("nowhere"), rank=4)

    return Catalogue.of(
        [adapter(name, ()) for name in cultures] + [adapter(n, axes) for n, axes in (panaceas or {}).items()]
    )


def list_text(folder: Path, name: str, text: str) -> Manifest:
    """Adds a text file to a complete folder and lists it in the manifest, which has another digest then."""
    manifest = read_manifest(folder)
    (folder / name).write_text(text)
    others = tuple(entry for entry in manifest.files if entry.path != name)
    changed = manifest.model_copy(update={"files": (*others, *describe_files(folder, [name]))})
    (folder / MANIFEST).write_text(yaml.safe_dump(changed.model_dump(mode="json", exclude_defaults=True)))
    return changed
