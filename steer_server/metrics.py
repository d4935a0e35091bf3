"""Metrics beside vLLM's on `/metrics`.

steer_requests_total{route,method,status}   answered requests; status is the HTTP code
steer_requests_refused_total                no bank slot came free
steer_requests_running{method}              in the engine now
steer_plan_seconds                          finding and building the plan (tens of microseconds)
steer_slot_wait_seconds                     wait for bank slots; 0 when all adapters are resident
steer_slot_load_seconds                     loading one adapter into a slot
steer_adapters_active                       adapters that may be used now
steer_slots_resident                        bank slots that hold an adapter
steer_slots_leased                          bank slots that requests or loads hold now
steer_requests_waiting                      requests that wait for bank slots
"""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from steer_server.engine.leases import SlotLeases


class Metrics:
    """One set of collectors. The registry is an argument, so that each test has its own."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.requests_total = Counter(
            "steer_requests_total", "Answered requests.", ["route", "method", "status"], registry=registry
        )
        self.refused_total = Counter(
            "steer_requests_refused_total", "Requests for which no bank slot came free.", registry=registry
        )
        self.running = Gauge(
            "steer_requests_running", "Requests in the engine now.", ["method"], registry=registry
        )
        self.plan_seconds = Histogram(
            "steer_plan_seconds",
            "Finding and building the plan.",
            buckets=(1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 1e-2),
            registry=registry,
        )
        self.slot_wait_seconds = Histogram(
            "steer_slot_wait_seconds",
            "Wait for bank slots.",
            buckets=(1e-4, 1e-3, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60),
            registry=registry,
        )
        self.slot_load_seconds = Histogram(
            "steer_slot_load_seconds",
            "Loading one adapter into a slot.",
            buckets=(0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30),
            registry=registry,
        )
        self.adapters_active = Gauge(
            "steer_adapters_active", "Adapters that may be used now.", registry=registry
        )
        self.slots_resident = Gauge(
            "steer_slots_resident", "Bank slots that hold an adapter.", registry=registry
        )
        self.slots_leased = Gauge(
            "steer_slots_leased", "Bank slots that requests or loads hold now.", registry=registry
        )
        self.requests_waiting = Gauge(
            "steer_requests_waiting", "Requests that wait for bank slots.", registry=registry
        )

    def watch_slots(self, leases: SlotLeases) -> None:
        """Reads the slot gauges from the leases whenever they are scraped."""
        self.slots_resident.set_function(lambda: len(leases.resident))
        self.slots_leased.set_function(lambda: leases.num_leased_slots)
        self.requests_waiting.set_function(lambda: leases.num_waiting)
