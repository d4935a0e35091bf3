"""Puts the server together: routes onto an app, and the state that they read; for vLLM and for tests."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse

from steer_server.api import adapter_routes, key_routes, openai_routes, steering_routes
from steer_server.api.guard import SteeringGuard
from steer_server.api.key_guard import KeyGuard
from steer_server.api.keys import KeyGate
from steer_server.api.respond import error_response
from steer_server.api.running import RunningRequests
from steer_server.catalogue.admission import Loaded
from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.probe import probe_adapter, probe_base
from steer_server.catalogue.records import CatalogueRecord
from steer_server.catalogue.service import CatalogueService
from steer_server.catalogue.snapshot import Catalogue, LoadedAdapter
from steer_server.engine.base import Engine
from steer_server.engine.leases import SlotLeases
from steer_server.errors import ConfigError, SteerError
from steer_server.metrics import Metrics
from steer_server.settings import Settings
from steer_server.state import Server
from steer_server.steering.plan import build_plan
from steer_server.steering.policy import Policy
from steer_server.steering.spec import parse_spec

logger = logging.getLogger("steer_server")

PRESET_ID = re.compile(r"^[a-z0-9][a-z0-9_.-]{0,62}$")


def attach(app: FastAPI) -> None:
    """Adds our routes, our errors and the guard to an app. `start` must fill `app.state` before the first
    request."""
    app.include_router(openai_routes.router)
    app.include_router(steering_routes.router)
    app.include_router(adapter_routes.router)
    app.include_router(key_routes.router)
    app.add_exception_handler(SteerError, _on_steer_error)
    app.add_middleware(SteeringGuard)
    app.add_middleware(KeyGuard)  # added last, so it comes first


async def _on_steer_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SteerError)
    return error_response(error)


async def start(state: Any, engine: Engine, settings: Settings, metrics: Metrics | None = None) -> Server:
    """Opens the catalogue, loads and probes what is active, and sets `state.steer`. The server answers only
    after this.

    Raises: ConfigError for a bad policy, preset, directory, store or database; EngineError when the engine
        does not answer.
    """
    metrics = metrics or Metrics()
    policy = Policy.read(settings.policy)
    bank = await engine.bank_info()

    async def load_slot(slot: int, adapter: LoadedAdapter) -> None:
        with metrics.slot_load_seconds.time():
            await engine.load_slot(slot, adapter)

    leases = SlotLeases(
        engine.num_slots,
        load_slot,
        engine.clear_slot,
        max_waiting=settings.max_waiting,
        max_wait_seconds=settings.max_wait_seconds,
    )
    metrics.watch_slots(leases)
    base_answer = await probe_base(engine)

    async def probe(loaded: Loaded) -> None:
        # Reward heads take no part in generation.
        if isinstance(loaded, LoadedAdapter):
            await probe_adapter(engine, leases, loaded, base_answer)

    catalogue = await CatalogueService.open(settings, BaseModel.of(settings), probe, leases.evict)
    keys = KeyGate(catalogue.database, admin_key=settings.admin_key, api_key=settings.api_key)

    running = RunningRequests()

    def on_sync(record: CatalogueRecord) -> None:
        running.on_sync(record)
        metrics.adapters_active.set(len(catalogue.snapshot.adapters))
        keys.forget()

    catalogue.replica.on_sync(on_sync)
    catalogue.go_on(keys.keep_writing_uses())
    metrics.adapters_active.set(len(catalogue.snapshot.adapters))
    try:
        presets = read_presets(settings.presets, catalogue.snapshot, policy)
    except ConfigError:
        await catalogue.close()
        raise
    server = Server(
        engine=engine,
        leases=leases,
        catalogue=catalogue,
        keys=keys,
        running=running,
        policy=policy,
        presets=presets,
        metrics=metrics,
        started_unix_seconds=int(time.time()),
        bank=bank,
    )
    logger.info(
        "ready: model %s, %d adapters active, %d refused, bank %s",
        engine.served_name,
        len(catalogue.snapshot.adapters),
        len(catalogue.refused),
        dict(bank),
    )
    state.steer = server
    return server


def read_presets(path: Path | None, catalogue: Catalogue, policy: Policy) -> Mapping[str, Any]:
    """Preset id -> `steering` object, each of which can be planned now.

    Raises: ConfigError naming every preset that cannot.
    """
    if path is None:
        return {}
    try:
        presets = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read presets {path}: {error}") from error
    if not isinstance(presets, dict):
        raise ConfigError(f"bad presets {path}: not a mapping of ids to steering objects")
    problems = []
    for preset, document in presets.items():
        if not PRESET_ID.match(str(preset)):
            problems.append(f"{preset}: ids are lower case letters, digits, '_', '.' and '-'")
            continue
        try:
            build_plan(parse_spec(document, param=str(preset)), catalogue, policy, param=str(preset))
        except SteerError as error:
            problems.append(f"{error.param}: {error}")
    if problems:
        raise ConfigError(f"bad presets {path}:\n  " + "\n  ".join(problems))
    return presets
