"""Packages to churn with: copies of one `lora` under new names, each version with weights of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from steer_server.catalogue.folders import write_adapter_folder
from steer_server.catalogue.manifest import PEFT_CONFIG, WEIGHTS, CultureInfo, read_manifest
from steer_server.catalogue.package import pack
from steer_server.errors import CatalogueError, EvaluationError

VERSIONS = ("1.0.0", "2.0.0")


@dataclass(frozen=True)
class ChurnedPackage:
    """One version of one churned adapter, ready to be sent."""

    name: str
    """Of the adapter and of its culture."""
    version: str
    archive: bytes
    """tar.gz"""

    @property
    def title(self) -> str:
        return f"{self.name}@{self.version}"


def make_packages(package: Path, names: Sequence[str], work: Path) -> list[ChurnedPackage]:
    """Every name in both versions; files are left below `work`.

    Semantics: B of copy i is multiplied by `0.8 + 0.1 * (i % 5)`, and by -1 in the second version: one pulls
    to the opposite of the other, so that a text says which version it came from.

    Raises: EvaluationError when the folder is not a readable package of kind `lora`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        manifest = read_manifest(package)
        config = json.loads((package / PEFT_CONFIG).read_text())
        tensors = load_file(package / WEIGHTS)
    except (CatalogueError, OSError, ValueError, SafetensorError) as error:
        raise EvaluationError(f"--package {package}: {error}") from error
    if manifest.kind != "lora" or manifest.culture is None:
        raise EvaluationError(f"--package {package}: its kind is {manifest.kind}; only a lora can be churned")
    packages = []
    for number, name in enumerate(names):
        for version, sign in zip(VERSIONS, (1.0, -1.0), strict=True):
            factor = sign * (0.8 + 0.1 * (number % 5))
            folder = work / version / name
            write_adapter_folder(
                folder,
                name=name,
                version=version,
                kind="lora",
                base_model=manifest.base_model,
                rank=config["r"],
                alpha=config["lora_alpha"],
                target_modules=config["target_modules"],
                tensors={
                    key: tensor * factor if ".lora_B." in key else tensor for key, tensor in tensors.items()
                },
                description=f"A copy of {manifest.name} with B times {factor:g}; made by a benchmark.",
                licence=manifest.licence,
                culture=CultureInfo(id=name),
            )
            packages.append(ChurnedPackage(name, version, b"".join(pack(folder))))
    return packages
