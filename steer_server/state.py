"""The server's state: built once at start, held by the app, passed to whoever needs it. Nothing is global."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steer_server.api.draining import Drain
from steer_server.api.keys import KeyGate
from steer_server.api.running import RunningRequests
from steer_server.api.scoring import Rewards
from steer_server.api.source import ModelNames
from steer_server.catalogue.service import CatalogueService
from steer_server.engine.base import Engine
from steer_server.engine.leases import SlotLeases
from steer_server.frozen.rewriting import Rewriter
from steer_server.metrics import Metrics
from steer_server.observing.spans import Tracer
from steer_server.steering.policy import Policy
from steer_server.upstream.upstreams import Upstreams


@dataclass
class Server:
    """Everything a route reads."""

    engine: Engine
    leases: SlotLeases
    catalogue: CatalogueService
    """Its `snapshot` is replaced as a whole, never changed; a request takes it once."""
    rewards: Rewards
    keys: KeyGate
    running: RunningRequests
    drain: Drain
    rewriter: Rewriter
    upstreams: Upstreams
    policy: Policy
    presets: Mapping[str, Any]
    metrics: Metrics
    started_unix_seconds: int
    max_body_bytes: int
    """Of a JSON body."""
    bank: Mapping[str, Any]
    """Shape and bytes of the bank."""
    tracer: Tracer | None = None
    """None: requests are not traced."""

    def model_names(self) -> ModelNames:
        return ModelNames(self.engine.served_name, self.catalogue.snapshot, self.policy, self.presets)
