"""How long it takes to take adapters in and to put them into service, and what fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram

from steer_server.errors import CatalogueError, SteerError

BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class LifecycleMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._probe_seconds = Histogram(
            "steer_probe_seconds",
            "Probing one version in the engine.",
            ["kind"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._probe_failures = Counter(
            "steer_probe_failures_total",
            "Versions that did not pass their probe.",
            ["kind", "reason"],
            registry=registry,
        )
        self._act_seconds = Histogram(
            "steer_adapter_act_seconds",
            "An operator's act, until it is served here.",
            ["act"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._act_failures = Counter(
            "steer_adapter_act_failures_total",
            "Acts that were refused or failed.",
            ["act", "reason"],
            registry=registry,
        )

    @contextmanager
    def probe(self, kind: str) -> Iterator[None]:
        """Measures the block. Args: kind: of the adapter, such as `lora`."""
        with _measured(self._probe_seconds, self._probe_failures, kind):
            yield

    @contextmanager
    def act(self, name: str) -> Iterator[None]:
        """Measures the block. Args: name: `push`, `activate`, `rollback`, `deactivate`, ..."""
        with _measured(self._act_seconds, self._act_failures, name):
            yield


@contextmanager
def _measured(seconds: Histogram, failures: Counter, label: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    except SteerError as error:
        reason = error.reason if isinstance(error, CatalogueError) else error.code
        failures.labels(label, reason).inc()
        raise
    seconds.labels(label).observe(time.perf_counter() - started)
