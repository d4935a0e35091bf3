"""The models that an upstream serves, as it last said. Listing ours never waits for it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from steer_server.upstream.client import Upstream
from steer_server.upstream.failures import Failure, garbled, too_slow

LIST_SECONDS = 10.0
MAX_LIST_BYTES = 8 * 2**20
MAX_ID_CHARACTERS = 256

logger = logging.getLogger("steer_server.upstream")


@dataclass(frozen=True)
class UpstreamModel:
    id: str
    """Its name at the upstream."""
    created: int


class ModelList:
    """Of one upstream. What was known stays while the upstream is away."""

    def __init__(self, upstream: Upstream, started_unix_seconds: int) -> None:
        self.upstream = upstream
        self.models: tuple[UpstreamModel, ...] = ()
        self._started = started_unix_seconds
        self._problem: str | None = None

    async def refresh(self) -> None:
        """Asks once; a failure is logged when it is another than the last time."""
        try:
            self.models = await self._ask()
        except Failure as failure:
            if failure.outcome != self._problem:
                logger.warning("upstream %s: no list of models: %s", self.upstream.name, failure.error)
            self._problem = failure.outcome
            return
        if self._problem is not None:
            logger.info("upstream %s: %d models", self.upstream.name, len(self.models))
        self._problem = None

    async def keep_fresh(self, every_seconds: float) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(every_seconds)
            await self.refresh()

    async def _ask(self) -> tuple[UpstreamModel, ...]:
        name = self.upstream.name
        try:
            async with asyncio.timeout(LIST_SECONDS):
                content = await self.upstream.get("models", MAX_LIST_BYTES)
        except TimeoutError as error:
            raise too_slow(name, "did not list its models", LIST_SECONDS) from error
        try:
            rows = self.upstream.cleaner.document(content.decode()).get("data")
        except ValueError as error:
            raise garbled(name, "sent something that is not a list of models") from error
        if not isinstance(rows, list):
            raise garbled(name, "sent JSON that is not a list of models")
        return tuple(self._model(row) for row in rows if _has_id(row))

    def _model(self, row: dict[str, Any]) -> UpstreamModel:
        created = row.get("created")
        return UpstreamModel(row["id"], created if type(created) is int else self._started)


def _has_id(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("id"), str)
        and 0 < len(row["id"]) <= MAX_ID_CHARACTERS
        and row["id"].isprintable()
    )
