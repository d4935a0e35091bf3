"""The catalogue: what is loaded and may be used now, as an immutable snapshot.

A request keeps the snapshot it was planned with; loading or removing an adapter makes a new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from steer_server.catalogue.manifest import Manifest
from steer_server.catalogue.reward_head import RewardHeadConfig
from steer_server.errors import CatalogueError


@dataclass(frozen=True)
class _Loaded:
    manifest: Manifest
    folder: Path
    digest: str = field(init=False)
    """Content digest; computed once because every plan reads it."""
    label: str = field(default="", kw_only=True)
    """What the catalogue calls this version; empty: as its manifest does."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", self.manifest.digest)

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.label or self.manifest.version

    @property
    def title(self) -> str:
        """`name@version`, as shown to clients."""
        return f"{self.name}@{self.version}"


_AnyLoaded = TypeVar("_AnyLoaded", bound=_Loaded)


@dataclass(frozen=True)
class LoadedAdapter(_Loaded):
    """One validated version of an adapter for the bank."""

    rank: int


@dataclass(frozen=True)
class LoadedRewardHead(_Loaded):
    """One validated version of a reward head. It takes no bank slot and no part in a plan."""

    config: RewardHeadConfig


@dataclass(frozen=True)
class Catalogue:
    """Lookups of one moment. Names are unique; so are culture ids of adapters, and ids of axes, heads and
    prompters."""

    adapters: tuple[LoadedAdapter, ...] = ()
    cultures: Mapping[str, LoadedAdapter] = field(default_factory=dict)
    axes: Mapping[str, LoadedAdapter] = field(default_factory=dict)
    by_digest: Mapping[str, LoadedAdapter] = field(default_factory=dict)
    reward_heads: Mapping[str, LoadedRewardHead] = field(default_factory=dict)
    """By head id."""
    prompters: Mapping[str, LoadedAdapter] = field(default_factory=dict)
    """By the prompter's id."""
    quarantined: Mapping[str, str] = field(default_factory=dict)
    """Id of a culture, axis, head or prompter that only quarantined versions have -> title of the newest."""

    @classmethod
    def of(cls, loaded: Iterable[LoadedAdapter | LoadedRewardHead]) -> Catalogue:
        """Raises: CatalogueError when two claim the same name, culture, axis, head or prompter."""
        ordered = sorted(loaded, key=lambda one: one.name)
        names: dict[str, _Loaded] = {}
        cultures: dict[str, LoadedAdapter] = {}
        axes: dict[str, LoadedAdapter] = {}
        heads: dict[str, LoadedRewardHead] = {}
        prompters: dict[str, LoadedAdapter] = {}

        def claim(table: dict[str, _AnyLoaded], kind: str, key: str, adapter: _AnyLoaded) -> None:
            if key in table:
                raise CatalogueError(
                    adapter.name, f"{kind}_taken", f"{kind} {key!r} is already in {table[key].title}"
                )
            table[key] = adapter

        for one in ordered:
            claim(names, "name", one.name, one)
            if isinstance(one, LoadedRewardHead):
                assert one.manifest.head is not None
                claim(heads, "head", one.manifest.head, one)
        adapters = tuple(one for one in ordered if isinstance(one, LoadedAdapter))
        for adapter in adapters:
            if adapter.manifest.culture:
                claim(cultures, "culture", adapter.manifest.culture.id, adapter)
            for axis in adapter.manifest.axes:
                claim(axes, "axis", axis.id, adapter)
            if adapter.manifest.prompter:
                claim(prompters, "prompter", adapter.manifest.prompter.id, adapter)
        return cls(
            adapters,
            MappingProxyType(cultures),
            MappingProxyType(axes),
            MappingProxyType({adapter.digest: adapter for adapter in adapters}),
            MappingProxyType(heads),
            MappingProxyType(prompters),
        )
