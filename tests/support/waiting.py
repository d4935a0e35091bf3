"""Waiting for what must come soon, on a machine that does other things too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LONGEST_SECONDS = 60.0
"""No promise: what comes at all comes much sooner."""


async def until(is_so: Callable[[], object]) -> None:
    """Returns when it is so. Raises: TimeoutError."""
    async with asyncio.timeout(LONGEST_SECONDS):
        while not is_so():
            await asyncio.sleep(0.005)
