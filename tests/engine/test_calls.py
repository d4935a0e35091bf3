"""A call to the workers that was under way when the engine died ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.vllm_warnings import IMPORTS_VLLM

pytestmark = IMPORTS_VLLM


class DyingClient:
    """Of an engine that dies during the first call, as vLLM's: the call is never answered."""

    errored = False

    async def collective_rpc(self, method: str, args: tuple[Any, ...]) -> list[Any]:
        self.errored = True
        return await asyncio.Future[list[Any]]()


async def test_a_call_that_the_dead_engine_will_not_answer_fails() -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    from steer_server.engine.calls import call_workers

    async with asyncio.timeout(60):
        with pytest.raises(EngineDeadError):
            await call_workers(DyingClient(), "steer_load_slot", 0)
