"""The catalogue: what is loaded and may be used now, as an immutable snapshot.

A request keeps the snapshot it was planned with; loading or removing an adapter makes a new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from steer_server.catalogue.manifest import Manifest
from steer_server.errors import CatalogueError


@dataclass(frozen=True)
class LoadedAdapter:
    """One validated version of an adapter."""

    manifest: Manifest
    folder: Path
    rank: int
    digest: str = field(init=False)
    """Content digest; computed once because every plan reads it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", self.manifest.digest)

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def title(self) -> str:
        """`name@version`, as shown to clients."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Catalogue:
    """Lookups of one moment. Names are unique; so are culture ids and axis ids."""

    adapters: tuple[LoadedAdapter, ...] = ()
    cultures: Mapping[str, LoadedAdapter] = field(default_factory=dict)
    axes: Mapping[str, LoadedAdapter] = field(default_factory=dict)
    by_digest: Mapping[str, LoadedAdapter] = field(default_factory=dict)

    @classmethod
    def of(cls, adapters: Iterable[LoadedAdapter]) -> Catalogue:
        """Raises: CatalogueError when two adapters claim the same name, culture or axis."""
        ordered = tuple(sorted(adapters, key=lambda adapter: adapter.name))
        names: dict[str, LoadedAdapter] = {}
        cultures: dict[str, LoadedAdapter] = {}
        axes: dict[str, LoadedAdapter] = {}

        def claim(table: dict[str, LoadedAdapter], kind: str, key: str, adapter: LoadedAdapter) -> None:
            if key in table:
                raise CatalogueError(
                    adapter.name, f"{kind}_taken", f"{kind} {key!r} is already in {table[key].title}"
                )
            table[key] = adapter

        for adapter in ordered:
            claim(names, "name", adapter.name, adapter)
            if adapter.manifest.culture:
                claim(cultures, "culture", adapter.manifest.culture.id, adapter)
            for axis in adapter.manifest.axes:
                claim(axes, "axis", axis.id, adapter)
        return cls(
            ordered,
            MappingProxyType(cultures),
            MappingProxyType(axes),
            MappingProxyType({adapter.digest: adapter for adapter in ordered}),
        )
