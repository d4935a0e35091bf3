"""`adapter.yaml`: what an adapter says of itself, and the content digest that identifies it.

An adapter is a folder: `adapter.yaml` (this manifest), `adapter_config.json` and
`adapter_model.safetensors` as PEFT writes them, and a card `README.md`. A reward head has
`reward_head.json` and `reward_head.safetensors` in place of PEFT's files. The manifest lists every file that
the engine will read, with size and sha256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from steer_server.catalogue.reward_head import HEAD_CONFIG, HEAD_WEIGHTS, RewardHeadConfig
from steer_server.errors import CatalogueError

MANIFEST = "adapter.yaml"
WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
CARD = "README.md"
RECIPE = "recipe.json"
SIGNATURE = "model.sig"
UNLISTED_FILES = frozenset({MANIFEST, CARD, RECIPE, SIGNATURE})
"""What may lie beside the files that the manifest lists; the engine reads none of it."""
MAX_MANIFEST_BYTES = 64 * 1024
MAX_MANIFEST_DEPTH = 16

NAME_PATTERN = r"^[a-z0-9][a-z0-9_.-]{0,62}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
"""Names are lower case and never contain `@`, `:` or `/`, which separate names elsewhere."""

Text = Annotated[str, Field(max_length=4000, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$")]
"""For people. Without control characters, which a terminal would obey."""

Country = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
Kind = Literal["lora", "panacea", "reward_head"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Strict):
    path: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]
    """A plain file name: no folders, so nothing can point outside."""
    size_bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CultureInfo(_Strict):
    """The community whose values a `lora` adapter carries, or whose judgement a `reward_head` learnt."""

    id: Name
    countries: tuple[Country, ...] = ()
    """ISO 3166 alpha-3."""


class ValueAxis(_Strict):
    """One direction of a `panacea` adapter. Its gate is its share of the preference vector."""

    id: Name
    description: Text = ""
    rank_index: Annotated[int, Field(ge=0)]
    """The rank (row of A, column of B) that carries this axis; ranks that carry none are shared."""


class DataSource(_Strict):
    source: Text
    licence: Text


class Manifest(_Strict):
    """The checked contents of `adapter.yaml`."""

    schema_version: Literal[1]
    name: Name
    version: Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,40}$")]
    kind: Kind
    description: Text = ""
    base_model: Text
    """Must equal the base model that is served."""
    licence: Text = ""
    culture: CultureInfo | None = None
    axes: tuple[ValueAxis, ...] = ()
    head: Name | None = None
    """What requests call a `reward_head`; the adapter's own name says also from which split it is."""
    files: tuple[FileEntry, ...]
    data: tuple[DataSource, ...] = ()

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Manifest:
        if (self.culture is not None) not in {"lora": (True,), "reward_head": (True, False)}.get(
            self.kind, (False,)
        ):
            raise ValueError("a lora has `culture`, a reward_head may have it; other kinds do not")
        if (self.kind == "reward_head") != (self.head is not None):
            raise ValueError("a reward_head has `head`; other kinds do not")
        if (self.kind == "panacea") != bool(self.axes):
            raise ValueError("a panacea has `axes`; other kinds do not")
        indexes = [axis.rank_index for axis in self.axes]
        ids = [axis.id for axis in self.axes]
        if len(set(indexes)) != len(indexes) or len(set(ids)) != len(ids):
            raise ValueError("two axes share an id or a rank_index")
        paths = [entry.path for entry in self.files]
        if len(set(paths)) != len(paths):
            raise ValueError("a file is listed twice")
        needed = {HEAD_WEIGHTS, HEAD_CONFIG} if self.kind == "reward_head" else {WEIGHTS, PEFT_CONFIG}
        if missing := needed - set(paths):
            raise ValueError(f"`files` does not list {sorted(missing)}")
        return self

    @property
    def digest(self) -> str:
        """Content digest: sha256 over the canonical manifest, which holds the files' own hashes. Hex."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


class _PlainLoader(yaml.SafeLoader):
    """YAML without what can make a small file large (aliases), deep, or mean two things (keys twice)."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if event.anchor is not None:
            raise yaml.YAMLError("anchors and aliases are not allowed")
        if self.depth >= MAX_MANIFEST_DEPTH:
            raise yaml.YAMLError(f"nested deeper than {MAX_MANIFEST_DEPTH}")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.YAMLError(f"key {key.value[:60]!a} is given twice")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an adapter folder.

    Raises: CatalogueError when it is missing, too large, not YAML, or breaks the schema above.
    """
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise CatalogueError(folder.name, "manifest_missing", f"no regular file {MANIFEST}")
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise CatalogueError(folder.name, "manifest_too_large", f"over {MAX_MANIFEST_BYTES} bytes")
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)
    # ValueError: not UTF-8, impossible dates, numbers with thousands of digits.
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        detail = " ".join(f"{MANIFEST}: {error}".split())[:400]
        raise CatalogueError(folder.name, "manifest_unreadable", detail) from error
    if not isinstance(document, dict):
        raise CatalogueError(folder.name, "manifest_unreadable", "not a mapping")
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        raise CatalogueError(folder.name, "manifest_invalid", described(error)) from error


def described(error: ValidationError) -> str:
    """The first problems, each with the place where it is. Keys are somebody's text: shown escaped."""
    places = [("".join(f".{part}" for part in e["loc"])[1:121], e["msg"]) for e in error.errors()[:5]]
    return "; ".join(f"{place.encode('unicode_escape').decode() or MANIFEST}: {msg}" for place, msg in places)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    data: Sequence[DataSource] = (),
    card: str = "",
    extra: Mapping[str, str] | None = None,
) -> Manifest:
    """Writes a complete adapter folder that PEFT can open as it is.

    Args:
        tensors: PEFT's names (`base_model.model....lora_A.weight`) to tensors.
        extra: further text files by name; they are not part of the manifest's `files`.
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
    if card:
        (folder / "README.md").write_text(card)
    for file_name, text in (extra or {}).items():
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
        files=describe_files(folder, [PEFT_CONFIG, WEIGHTS]),
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
    extra: Mapping[str, str] | None = None,
) -> Manifest:
    """Writes a complete reward head folder; the manifest last, so that a folder with one is complete.

    Args:
        weight: w of `raw = w·h + b`, `[hidden]`.
        extra: further text files by name; they are not part of the manifest's `files`.
    """
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "weight": torch.as_tensor(weight, dtype=torch.float32).contiguous(),
        "bias": torch.tensor([bias], dtype=torch.float32),
    }
    save_file(tensors, folder / HEAD_WEIGHTS)
    texts = {HEAD_CONFIG: json.dumps(config.model_dump(mode="json"), indent=2) + "\n", **(extra or {})}
    if card:
        texts["README.md"] = card
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
        files=describe_files(folder, [HEAD_CONFIG, HEAD_WEIGHTS]),
        data=tuple(data),
    )
    _write_manifest(folder, manifest)
    return manifest


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    document = manifest.model_dump(mode="json", exclude_defaults=True)
    (folder / MANIFEST).write_text(yaml.safe_dump(document, sort_keys=False, width=100))
