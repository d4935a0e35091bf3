"""What a server holds under load: gauges of its metrics, and memory and handles of its processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from steer_server.evaluation.server_memory import MIB, num_handles, rss_bytes
from steer_server.evaluation.trends import second_half

HELD = frozenset(
    {
        "steer_requests_running",
        "steer_requests_waiting",
        "steer_plans_in_flight",
        "steer_plans_distinct",
        "steer_slots_leased",
        "steer_slot_leases",
        "steer_adapter_requests_running",
        "steer_quarantined_requests_running",
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
    }
)
"""Gauges that are 0 when nothing is under way."""
EVERY_SECONDS = 2.0
ASK_AGAIN_SECONDS = 0.25


async def numbers_held(http: httpx.AsyncClient) -> dict[str, float] | None:
    """Every gauge of `HELD` with its labels; None when `/metrics` has none of them or does not answer."""
    try:
        page = (await http.get("/metrics")).raise_for_status().text
        return {
            " ".join([sample.name, *sample.labels.values()]): sample.value
            for family in text_string_to_metric_families(page)
            if family.name in HELD
            for sample in family.samples
        } or None
    except (httpx.HTTPError, ValueError):
        return None


async def until_given_back(http: httpx.AsyncClient, seconds: float) -> tuple[float, dict[str, float] | None]:
    """Waits until nothing is held any more, at most so long. Returns: how long that took, and what is held
    all the same."""
    started = time.monotonic()
    while True:
        held = await numbers_held(http)
        left = None if held is None else {key: value for key, value in held.items() if value}
        waited = time.monotonic() - started
        if left is None or not left or waited >= seconds:
            return waited, left
        await asyncio.sleep(ASK_AGAIN_SECONDS)


@dataclass
class ServerWatch:
    """Samples from `start` until `stop`."""

    http: httpx.AsyncClient
    processes: Sequence[psutil.Process]
    """Empty when the server is on another machine."""
    every_seconds: float = EVERY_SECONDS
    seconds: list[float] = field(default_factory=list)
    """Since the start, of each sample."""
    rss: list[dict[str, int]] = field(default_factory=list)
    """Bytes by process; so are the next ones."""
    handles: list[dict[str, int]] = field(default_factory=list)
    held: list[dict[str, float]] = field(default_factory=list)
    """Empty where the server did not say."""
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._started = time.monotonic()
        self._task = asyncio.create_task(self._sample())

    async def stop(self) -> None:
        """May be called more than once."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _sample(self) -> None:
        while True:
            held = await numbers_held(self.http) or {}
            self.seconds.append(time.monotonic() - self._started)
            self.rss.append(rss_bytes(self.processes))
            self.handles.append(num_handles(self.processes))
            self.held.append(held)
            await asyncio.sleep(self.every_seconds)

    def describe(self) -> dict[str, Any]:
        """Series, and trends of those that are to be flat; MiB."""
        memory = {key: [one / MIB for one in values] for key, values in _series(self.rss).items()}
        handles = _series(self.handles)
        most: dict[str, float] = {}
        for held in self.held:
            for key, value in held.items():
                most[key] = max(value, most.get(key, 0.0))
        return {
            "seconds": [round(at, 1) for at in self.seconds],
            "memory_mib": {key: [round(one, 1) for one in values] for key, values in memory.items()},
            "handles": handles,
            "memory_trend": self._trends(memory),
            "handles_trend": self._trends(handles),
            "most_held": {key: value for key, value in sorted(most.items()) if value},
        }

    def _trends(self, series: dict[str, list[float]]) -> dict[str, dict[str, float] | None]:
        found = {key: second_half(self.seconds, values) for key, values in series.items()}
        return {key: None if trend is None else trend.describe() for key, trend in found.items()}


def _series(samples: Sequence[dict[str, int]]) -> dict[str, list[float]]:
    """By process, of those that were there all the time."""
    keys = sorted(set.intersection(*map(set, samples))) if samples else []
    return {key: [float(sample[key]) for sample in samples] for key in keys}
