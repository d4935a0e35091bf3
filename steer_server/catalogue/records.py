"""What the catalogue's database holds, as plain frozen values. Times are UTC and aware."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from steer_server.catalogue.states import State

Role = Literal["application", "operator", "replica", "system"]
"""Who acts: a key of either role, a server on its own (a failed probe), or a program such as the watcher."""

KeyRole = Literal["application", "operator"]

Outcome = Literal["done", "unchanged", "refused"]
"""`unchanged`: it was so already. `refused`: nothing was changed, and `detail` says why."""


@dataclass(frozen=True)
class Actor:
    """Who does an act, for the audit."""

    name: str
    """A key's id, or the program's or replica's name."""
    role: Role
    remote_address: str | None = None


@dataclass(frozen=True)
class NewVersion:
    """What a push brings."""

    digest: str
    """Content digest of the manifest, which covers the files' own hashes. Hex."""
    name: str
    version: str
    kind: str
    manifest: Mapping[str, Any]
    """`Manifest.model_dump(mode="json")`."""
    size_bytes: int
    signature: str = "none"
    """What the signature check found, in its own words."""


@dataclass(frozen=True)
class VersionRecord:
    """One immutable version. Only `state`, `reason`, `detail` and `updated_at` ever change."""

    digest: str
    name: str
    version: str
    kind: str
    state: State
    reason: str
    """Why it is in this state: one stable word, or empty."""
    detail: str
    manifest: Mapping[str, Any] = field(repr=False)
    size_bytes: int
    signature: str
    created_at: datetime
    updated_at: datetime
    pushed_by: str

    @property
    def title(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class CatalogueRecord:
    """Everything a replica follows, read in one transaction."""

    revision: int
    versions: Mapping[str, VersionRecord]
    """By digest."""
    aliases: Mapping[str, str | None]
    """Name -> digest of its active version; None where a name has none now."""


@dataclass(frozen=True)
class AliasMove:
    """One row of a name's history."""

    id: int
    """Grows in the order of the acts."""
    name: str
    digest: str | None
    """What the name points at since."""
    previous: str | None
    version: str | None
    """The label of `digest`; kept when the version is removed."""
    action: str
    """activate, rollback, deactivate or quarantine."""
    actor: str
    at: datetime


@dataclass(frozen=True)
class ReplicaRecord:
    """How far one server has come."""

    id: str
    revision: int
    """The newest revision that it serves completely, but for `problems`."""
    last_seen: datetime
    problems: Mapping[str, str]
    """Digest -> why this replica cannot serve it."""


@dataclass(frozen=True)
class AuditEntry:
    id: int
    at: datetime
    actor: str
    role: str
    action: str
    name: str | None
    version: str | None
    digest: str | None
    outcome: str
    detail: str
    remote_address: str | None


@dataclass(frozen=True)
class KeyLimits:
    """What a key may do. None: no limit of that sort."""

    cultures: frozenset[str] | None = None
    axes: frozenset[str] | None = None
    requests_per_minute: int | None = None
    concurrency: int | None = None
    """Requests at one time, on one replica."""
    expires_at: datetime | None = None


@dataclass(frozen=True)
class KeyRecord:
    """A key without its secret."""

    id: str
    role: KeyRole
    prefix: str
    """The beginning of the secret, enough to recognise a key by."""
    label: str
    limits: KeyLimits
    created_at: datetime
    created_by: str
    last_used_at: datetime | None
    """At most a minute late."""
    revoked_at: datetime | None
