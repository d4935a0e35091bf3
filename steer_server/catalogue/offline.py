"""The checks of a push on this machine, without a server: everything but the probe."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.manifest import Manifest
from steer_server.catalogue.package import stage_archive, stage_folder
from steer_server.catalogue.signatures import SignaturePolicy, SignatureStatus, read_public_keys, verify
from steer_server.catalogue.snapshot import LoadedAdapter
from steer_server.catalogue.validation import validate_folder


@dataclass(frozen=True)
class Checked:
    """A package that a server would probe next."""

    manifest: Manifest
    rank: int | None
    """None for a reward head."""
    signature: SignatureStatus

    def describe(self) -> dict[str, Any]:
        """In the words of the server's answers."""
        manifest, signature = self.manifest, self.signature
        return {
            "name": manifest.name,
            "version": manifest.version,
            "kind": manifest.kind,
            "culture": manifest.culture and manifest.culture.id,
            "axes": [axis.id for axis in manifest.axes],
            "anchors": [anchor.model_dump(mode="json") for anchor in manifest.anchors],
            "head": manifest.head,
            "prompter": manifest.prompter and manifest.prompter.id,
            "rank": self.rank,
            "base_model": manifest.base_model,
            "description": manifest.description,
            "licence": manifest.licence,
            "size_bytes": sum(entry.size_bytes for entry in manifest.files),
            "digest": manifest.digest,
            "signature": signature.state,
            "signature_detail": signature.detail,
            "signed_by": signature.fingerprint,
        }


def check_package(
    package: Path, base: BaseModel, max_rank: int, policy: SignaturePolicy, trusted: Path | None
) -> Checked:
    """What is in a package folder or archive, which is left as it is.

    Args:
        trusted: directory of public keys (`*.pub`), or one of them.

    Raises: CatalogueError, with the reason that a server would give; ConfigError for a bad key.
    """
    files = [] if trusted is None else sorted(trusted.glob("*.pub")) if trusted.is_dir() else [trusted]
    keys = read_public_keys(files)

    async def check(staging: Path) -> Checked:
        async with AsyncExitStack() as stack:
            if package.is_dir():
                # The folder itself may be a link here; a server asks for one below its own directory.
                real = package.resolve()
                staged = await stack.enter_async_context(stage_folder(real, real.parent, staging))
            else:
                archive = stack.enter_context(package.open("rb"))
                staged = await stack.enter_async_context(stage_archive(archive, staging))
            loaded = validate_folder(staged.folder, base, max_rank)
            signature = verify(staged.folder, keys, policy, label=loaded.name)
        return Checked(loaded.manifest, loaded.rank if isinstance(loaded, LoadedAdapter) else None, signature)

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(check(Path(folder)))
