"""Calls to the workers, which end when the engine does."""

from __future__ import annotations

import asyncio
from typing import Any

from vllm.v1.engine.exceptions import EngineDeadError

LOOK_SECONDS = 1.0
"""Between two looks at whether the engine lives."""


async def call_workers(client: Any, method: str, *arguments: Any) -> list[Any]:
    """What each worker returns.

    vLLM 0.32 never answers a call that was under way when the engine died (vLLM #56416): an operator's act
    would wait for ever, and with it the server, which ends when its requests have.

    Raises: EngineDeadError, and what the method raises.
    """
    call = asyncio.ensure_future(client.collective_rpc(method, args=arguments))
    try:
        while not (await asyncio.wait([call], timeout=LOOK_SECONDS))[0]:
            if client.errored:
                raise EngineDeadError
        return list(call.result())
    finally:
        call.cancel()
