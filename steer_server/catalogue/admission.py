"""What a version must pass before this server runs it: validation, signature, and a probe in the engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.signatures import SignaturePolicy, SignatureStatus, verify
from steer_server.catalogue.snapshot import LoadedAdapter, LoadedRewardHead
from steer_server.catalogue.store import Store
from steer_server.catalogue.threads import in_thread
from steer_server.catalogue.validation import validate_folder

Loaded = LoadedAdapter | LoadedRewardHead
Probe = Callable[[Loaded], Awaitable[None]]
"""Runs a version on this engine. Raises: CatalogueError; CapacityError when the engine could not try."""


@dataclass(frozen=True)
class Admission:
    store: Store
    probe: Probe
    base: BaseModel
    max_rank: int
    signatures: SignaturePolicy
    public_keys: Mapping[str, Path]
    """As `read_public_keys` returns."""

    async def checked(self, folder: Path) -> tuple[Loaded, SignatureStatus]:
        """A package folder that may be probed. Raises: CatalogueError."""

        def check() -> tuple[Loaded, SignatureStatus]:
            loaded = validate_folder(folder, self.base, self.max_rank)
            return loaded, verify(folder, self.public_keys, self.signatures, label=loaded.name)

        return await in_thread(lambda _: check())

    async def load(self, digest: str) -> Loaded:
        """A version from the store, checked and probed.

        Raises: CatalogueError; CapacityError when the engine could not try.
        """
        loaded, _ = await self.checked(await self.store.folder(digest))
        await self.probe(loaded)
        return loaded
