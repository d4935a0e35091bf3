"""Where bad packages are made: a copy of a good one, keys to sign with, and ways to change the copy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.folders import describe_files
from steer_server.catalogue.manifest import CARD, MANIFEST, PEFT_CONFIG, RECIPE, WEIGHTS
from steer_server.catalogue.signatures import generate_key
from tests.support.adapters import random_adapter


@dataclass(frozen=True)
class Bench:
    """What one bad package is made from."""

    folder: Path
    """A copy of a good package, to be spoilt. Its parent is the root from which folders may be taken."""
    keys: Path
    """Holds `trusted.key` and `trusted.pub`, `stranger.key` and `stranger.pub`."""


def good_package(parent: Path, name: str, base: BaseModel, **options: Any) -> Path:
    """A package with everything that one may hold, but the signature."""
    random_adapter(parent, name, base, **options)
    (parent / name / CARD).write_text(f"# {name}\n")
    (parent / name / RECIPE).write_text("{}\n")
    return parent / name


def make_keys(folder: Path) -> Path:
    folder.mkdir()
    for name in ("trusted", "stranger"):
        generate_key(folder / f"{name}.key", folder / f"{name}.pub")
    return folder


def bench_of(good: Path, work: Path, keys: Path) -> Bench:
    """A bench with a fresh copy of the good package below `work`."""
    shutil.copytree(good, work / "packages" / good.name)
    return Bench(work / "packages" / good.name, keys)


def written(name: str, content: bytes | str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def relisted(folder: Path) -> None:
    """Makes the manifest's sizes and hashes true again."""
    entries = [e.model_dump() for e in describe_files(folder, [PEFT_CONFIG, WEIGHTS])]
    manifest(lambda m: m.update(files=entries))(folder)


def manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        document = yaml.safe_load((folder / MANIFEST).read_text())
        change(document)
        (folder / MANIFEST).write_text(yaml.safe_dump(document))

    return apply


def appended_to_manifest(text: str) -> Callable[[Path], None]:
    return lambda folder: written(MANIFEST, (folder / MANIFEST).read_text() + text)(folder)


def peft(**changes: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        config = json.loads((folder / PEFT_CONFIG).read_text())
        (folder / PEFT_CONFIG).write_text(json.dumps({**config, **changes}))
        relisted(folder)

    return apply


def replaced(name: str, old: str, new: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))
        relisted(folder)

    return apply


def file(name: str, content: bytes) -> Callable[[Path], None]:
    """Other contents, truthfully listed."""

    def apply(folder: Path) -> None:
        (folder / name).write_bytes(content)
        relisted(folder)

    return apply


def weights(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: file(WEIGHTS, change((folder / WEIGHTS).read_bytes()))(folder)


def tensors(change: Callable[[dict[str, torch.Tensor], str, str], object]) -> Callable[[Path], None]:
    """`change` gets the tensors and the names of one pair's A and B."""

    def apply(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        a = min(key for key in found if ".lora_A." in key)
        change(found, a, a.replace("lora_A", "lora_B"))
        save_file(found, folder / WEIGHTS)
        relisted(folder)

    return apply


def header(change: Callable[[dict[str, Any], list[str]], object]) -> Callable[[Path], None]:
    """`change` gets the header of the weights and the tensors' names in the order of their bytes."""

    def apply(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        length = int.from_bytes(content[:8], "little")
        document = json.loads(content[8 : 8 + length])
        names = sorted(
            (n for n in document if n != "__metadata__"), key=lambda n: document[n]["data_offsets"]
        )
        change(document, names)
        new = json.dumps(document).encode()
        file(WEIGHTS, len(new).to_bytes(8, "little") + new + content[8 + length :])(folder)

    return apply


def raw_header(content: bytes) -> Callable[[Path], None]:
    return file(WEIGHTS, len(content).to_bytes(8, "little") + content + bytes(64))


def twice_in_the_header(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(content[:8], "little")
    text = content[8 : 8 + length].decode().rstrip()
    first = min(name for name in json.loads(text) if name != "__metadata__")
    entry = json.dumps({first: json.loads(text)[first]})
    new = f"{entry[:-1]},{text[1:]}".encode()
    file(WEIGHTS, len(new).to_bytes(8, "little") + new + content[8 + length :])(folder)


def moved(names: list[str], document: dict[str, Any], *, begin: int, end: int) -> None:
    """Moves the second tensor's offsets."""
    offsets = document[names[1]]["data_offsets"]
    document[names[1]]["data_offsets"] = [offsets[0] + begin, offsets[1] + end]


def linked_weights(folder: Path) -> None:
    shutil.move(folder / WEIGHTS, folder.parent / "elsewhere.safetensors")
    (folder / WEIGHTS).symlink_to(folder.parent / "elsewhere.safetensors")


def small_weights_in_large_matrices(found: dict[str, torch.Tensor], a: str, b: str) -> None:
    """An update of an ordinary size whose factors float16 cannot hold."""
    found[a], found[b] = found[a].float() * 1e7, found[b].float() * 1e-7
