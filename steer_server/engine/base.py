"""The seam: what the rest of the server needs of an engine. VllmEngine and FakeEngine have it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from starlette.requests import Request

from steer_server.catalogue.snapshot import LoadedAdapter
from steer_server.steering.plan import SteeringPlan

Route = Literal["chat", "completion"]


@dataclass
class Answer:
    """One OpenAI answer: exactly one of the two is set."""

    body: dict[str, Any] | None = None
    """The whole response, when not streaming."""
    events: AsyncIterator[str] | None = None
    """SSE events as text, each ending in a blank line; the last is `data: [DONE]`."""


class EngineRun(Protocol):
    """One request's use of the engine."""

    async def answer(self) -> Answer:
        """Starts the request.

        Raises: SteerError when the engine refuses it or fails before the first byte.
        """
        ...

    async def stop(self) -> None:
        """Ends whatever is still running for this request; returns when the engine has been told so."""
        ...


class Engine(Protocol):
    """A model with a bank of adapters."""

    served_name: str
    """The base model's name in the API."""
    num_slots: int
    """S: adapters resident at once."""

    async def load_slot(self, slot: int, adapter: LoadedAdapter) -> None:
        """Puts an adapter into a slot in place of what was there.

        Raises: EngineError; the slot is then empty.
        """
        ...

    async def clear_slot(self, slot: int) -> None:
        """Empties a slot.

        Raises: EngineError.
        """
        ...

    def run(self, route: Route, body: dict[str, Any], plan: SteeringPlan, request: Request) -> EngineRun:
        """One request under one plan. Every adapter of the plan must be leased until it has stopped."""
        ...

    async def check_health(self) -> None:
        """Raises: EngineError when the engine is dead."""
        ...

    async def bank_info(self) -> dict[str, Any]:
        """Shape and bytes of the bank."""
        ...
