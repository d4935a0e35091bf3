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
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from steer_server.api import adapter_routes, key_routes, openai_routes, reward_routes, steering_routes
from steer_server.api.drain_guard import DrainGuard
from steer_server.api.draining import Drain
from steer_server.api.guard import SteeringGuard
from steer_server.api.key_guard import KeyGuard
from steer_server.api.keys import KeyGate
from steer_server.api.respond import error_response
from steer_server.api.running import RunningRequests
from steer_server.api.score_log import ScoreLog
from steer_server.api.scoring import Rewards
from steer_server.catalogue.admission import Loaded
from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.probe import probe_adapter, probe_base
from steer_server.catalogue.probe_head import probe_head
from steer_server.catalogue.records import CatalogueRecord
from steer_server.catalogue.service import CatalogueService
from steer_server.catalogue.snapshot import Catalogue, LoadedAdapter
from steer_server.engine.base import Engine
from steer_server.engine.heads import LoadedHeads
from steer_server.engine.leases import SlotLeases
from steer_server.errors import CLIENT_CLOSED_STATUS, ConfigError, SteerError
from steer_server.frozen.rewriting import Rewriter
from steer_server.metrics import Metrics
from steer_server.observing.middleware import RequestObserver
from steer_server.observing.spans import Tracer
from steer_server.playground.pages import add_playground
from steer_server.settings import Settings
from steer_server.state import Server
from steer_server.steering.plan import build_plan
from steer_server.steering.policy import Policy
from steer_server.steering.scoring import heads_of_spec
from steer_server.steering.spec import parse_spec
from steer_server.upstream.upstreams import Upstreams

logger = logging.getLogger("steer_server")

PRESET_ID = re.compile(r"^[a-z0-9][a-z0-9_.-]{0,62}$")


def attach(app: FastAPI) -> None:
    """Adds our routes, our errors and the guard to an app. `start` must fill `app.state` before the first
    request."""
    app.include_router(openai_routes.router)
    app.include_router(steering_routes.router)
    app.include_router(reward_routes.router)
    app.include_router(adapter_routes.router)
    app.include_router(key_routes.router)
    add_playground(app)
    app.add_exception_handler(SteerError, _on_steer_error)
    app.add_exception_handler(ClientDisconnect, _on_left)
    app.add_middleware(SteeringGuard)
    app.add_middleware(KeyGuard)
    app.add_middleware(DrainGuard)
    app.add_middleware(RequestObserver)  # added last, so it comes first


async def _on_steer_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SteerError)
    return error_response(error)


async def _on_left(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_STATUS)


async def start(
    state: Any,
    engine: Engine,
    settings: Settings,
    metrics: Metrics | None = None,
    tracer: Tracer | None = None,
) -> Server:
    """Opens the catalogue, loads and probes what is active, and sets `state.steer`. The server answers only
    after this.

    Args: tracer: None: requests are not traced.

    Raises: ConfigError for a bad policy, preset, directory, store, database or upstream; EngineError when
        the engine does not answer.
    """
    metrics = metrics or Metrics()
    policy = Policy.read(settings.policy)
    bank = await engine.bank_info()

    async def load_slot(slot: int, adapter: LoadedAdapter) -> None:
        with metrics.slot_load(adapter):
            await engine.load_slot(slot, adapter)

    leases = SlotLeases(
        engine.num_slots,
        load_slot,
        engine.clear_slot,
        max_waiting=settings.max_waiting,
        max_wait_seconds=settings.max_wait_seconds,
    )
    heads = LoadedHeads(engine)
    log = ScoreLog(settings.score_log, settings.score_log_share) if settings.score_log else None
    base_answer = await probe_base(engine)

    async def probe(loaded: Loaded) -> None:
        with metrics.lifecycle.probe(loaded.manifest.kind):
            if isinstance(loaded, LoadedAdapter):
                await probe_adapter(engine, leases, loaded, base_answer)
            else:
                await probe_head(heads, loaded)

    async def evict(digest: str) -> None:
        # Requests that are planned with a head, and do not hold it yet, are known to the leases.
        await leases.evict(digest)
        await heads.evict(digest)

    catalogue = await CatalogueService.open(settings, BaseModel.of(settings), probe, evict)
    keys = KeyGate(catalogue.database, admin_key=settings.admin_key, api_key=settings.api_key)

    running = RunningRequests()

    def on_sync(record: CatalogueRecord) -> None:
        running.on_sync(record)
        metrics.keep(catalogue.snapshot)
        keys.forget()

    catalogue.replica.on_sync(on_sync)
    catalogue.go_on(keys.keep_writing_uses())
    catalogue.go_on(metrics.keep_asking(engine))
    metrics.keep(catalogue.snapshot)
    metrics.watch(engine, leases, catalogue)
    try:
        presets = read_presets(settings.presets, catalogue.snapshot, policy)
        upstreams = await Upstreams.open(settings, engine.served_name, metrics)
    except ConfigError:
        await catalogue.close()
        raise
    catalogue.go_on(upstreams.keep_fresh())
    server = Server(
        engine=engine,
        leases=leases,
        catalogue=catalogue,
        rewards=Rewards(engine, heads, metrics, log),
        keys=keys,
        running=running,
        drain=Drain(running),
        rewriter=Rewriter(
            max_tokens=settings.rewrite_max_tokens,
            cache_characters=settings.rewrite_cache_characters,
            metrics=metrics,
        ),
        upstreams=upstreams,
        policy=policy,
        presets=presets,
        metrics=metrics,
        started_unix_seconds=int(time.time()),
        max_body_bytes=settings.max_body_mib * 2**20,
        bank=bank,
        tracer=tracer,
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
            spec = parse_spec(document, param=str(preset))
            build_plan(spec, catalogue, policy, param=str(preset))
            heads_of_spec(spec, catalogue, policy, param=str(preset))
        except SteerError as error:
            problems.append(f"{error.param}: {error}")
    if problems:
        raise ConfigError(f"bad presets {path}:\n  " + "\n  ".join(problems))
    return presets
