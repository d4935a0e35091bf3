"""The server's state: built once at start, held by the app, passed to whoever needs it. Nothing is global."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steer_server.api.source import ModelNames
from steer_server.catalogue.loader import RefusedAdapter
from steer_server.catalogue.snapshot import Catalogue
from steer_server.engine.base import Engine
from steer_server.engine.leases import SlotLeases
from steer_server.metrics import Metrics
from steer_server.steering.policy import Policy


@dataclass
class Server:
    """Everything a route reads. `catalogue` is replaced as a whole, never changed."""

    engine: Engine
    leases: SlotLeases
    catalogue: Catalogue
    refused: tuple[RefusedAdapter, ...]
    policy: Policy
    presets: Mapping[str, Any]
    metrics: Metrics
    started_unix_seconds: int
    bank: Mapping[str, Any]
    """Shape and bytes of the bank."""

    def model_names(self) -> ModelNames:
        return ModelNames(self.engine.served_name, self.catalogue, self.policy, self.presets)
