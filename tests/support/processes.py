"""Processes for tests, started from one that has imported everything: each costs a fraction of a second."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext

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


def warm_context() -> ForkServerContext:
    """There is one such process for all tests: what it imports is settled when the first asks for it."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["tests.support.kill_server", "tests.support.churn", *IMPORTED_LATE])
    return made
