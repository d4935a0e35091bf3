"""The catalogue's tables. A change here needs a migration; a test compares the two."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)

from steer_server.catalogue.states import STORED


class Utc(TypeDecorator[datetime]):
    """Aware datetimes, in UTC on both databases. SQLite drops the zone, so it is put back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Plain(TypeDecorator[str]):
    """Text that both databases take: PostgreSQL refuses NUL and lone surrogates, which clients can send."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def now() -> datetime:
    return datetime.now(UTC)


# SQLite counts up by itself only in a column that is exactly INTEGER.
Counter = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

revision = Table(
    "revision",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1", name="one_row"), primary_key=True, autoincrement=False),
    Column("value", BigInteger, nullable=False),
)
"""One row. Its value grows with every act that changes what replicas must serve; its lock orders all acts."""

versions = Table(
    "versions",
    metadata,
    Column("digest", Plain, primary_key=True),
    Column("name", Plain, nullable=False),
    Column("version", Plain, nullable=False),
    Column("kind", Plain, nullable=False),
    Column("state", Plain, nullable=False),
    Column("reason", Plain, nullable=False),
    Column("detail", Plain, nullable=False),
    Column("manifest", JSON, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("signature", Plain, nullable=False),
    Column("created_at", Utc, nullable=False),
    Column("updated_at", Utc, nullable=False),
    Column("pushed_by", Plain, nullable=False),
    UniqueConstraint("name", "version"),
    CheckConstraint(f"state IN ({', '.join(repr(str(s)) for s in sorted(STORED))})", name="state"),
)

Index(
    "uq_versions_one_active",
    versions.c.name,
    unique=True,
    sqlite_where=text("state = 'active'"),
    postgresql_where=text("state = 'active'"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("name", Plain, primary_key=True),
    Column("digest", Plain, ForeignKey(versions.c.digest), nullable=True),
    Column("moved_at", Utc, nullable=False),
)

alias_history = Table(
    "alias_history",
    metadata,
    Column("id", Counter, primary_key=True),
    Column("name", Plain, nullable=False, index=True),
    # No foreign keys: the history outlives removed versions.
    Column("digest", Plain, nullable=True),
    Column("previous", Plain, nullable=True),
    Column("version", Plain, nullable=True),
    Column("action", Plain, nullable=False),
    Column("actor", Plain, nullable=False),
    Column("at", Utc, nullable=False),
    sqlite_autoincrement=True,
)

replicas = Table(
    "replicas",
    metadata,
    Column("id", Plain, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("last_seen", Utc, nullable=False),
    Column("problems", JSON, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Counter, primary_key=True),
    Column("at", Utc, nullable=False),
    Column("actor", Plain, nullable=False),
    Column("role", Plain, nullable=False),
    Column("action", Plain, nullable=False),
    Column("name", Plain, nullable=True, index=True),
    Column("version", Plain, nullable=True),
    Column("digest", Plain, nullable=True),
    Column("outcome", Plain, nullable=False),
    Column("detail", Plain, nullable=False),
    Column("remote_address", Plain, nullable=True),
    sqlite_autoincrement=True,
)
"""Append-only: triggers of the first migration refuse to change or delete a row."""

keys = Table(
    "keys",
    metadata,
    Column("id", Plain, primary_key=True),
    Column("secret_sha256", Plain, nullable=False, unique=True),
    Column("role", Plain, nullable=False),
    Column("prefix", Plain, nullable=False),
    Column("label", Plain, nullable=False),
    Column("cultures", JSON(none_as_null=True), nullable=True),
    Column("axes", JSON(none_as_null=True), nullable=True),
    Column("requests_per_minute", Integer, nullable=True),
    Column("concurrency", Integer, nullable=True),
    Column("expires_at", Utc, nullable=True),
    Column("created_at", Utc, nullable=False),
    Column("created_by", Plain, nullable=False),
    Column("last_used_at", Utc, nullable=True),
    Column("revoked_at", Utc, nullable=True),
    CheckConstraint("role IN ('application', 'operator')", name="role"),
)
