"""The catalogue's database on both of its engines, and processes to be killed."""

from __future__ import annotations

import multiprocessing
from collections.abc import AsyncIterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from steer_server.catalogue.database import Database
from tests.support.postgres import PostgreSQL

IMPORTED_LATE = (
    "aiosqlite",
    "anyio._backends._asyncio",
    "alembic.command",
    "pytest",
    "safetensors.torch",
    "torch._dynamo",
    "transformers.models.llama.modeling_llama",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.http.auto",
)
"""What a server imports when it starts and at its first push, which takes longer than those live that are
killed; and what the tests' own main module imports, which a new process reads again."""


@pytest.fixture(scope="session")
def context() -> ForkServerContext:
    """Starts processes from one that has imported everything: each costs a fraction of a second. There is one
    such process for all tests: what it imports is settled when the first asks for it."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["tests.support.kill_server", "tests.support.churn", *IMPORTED_LATE])
    return made


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'catalogue.db'}"


@pytest.fixture
def postgresql_url(postgresql: PostgreSQL) -> str:
    return postgresql.new_database()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database, on each engine in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = await Database.open(database_url)
    yield opened
    await opened.close()
