"""What is so now, read from the server's own state at each scrape, so that no gauge can drift from it.

Scrapes come from another thread than the event loop's: whatever is read here is copied first.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from steer_server.catalogue.service import CatalogueService
from steer_server.catalogue.states import STORED, State
from steer_server.engine.leases import SlotLeases
from steer_server.metrics.requests import InFlight


class LiveState:
    """A collector over one server. Register it when the catalogue is open."""

    def __init__(self, leases: SlotLeases, catalogue: CatalogueService, in_flight: InFlight) -> None:
        self._leases, self._catalogue, self._in_flight = leases, catalogue, in_flight

    def collect(self) -> Iterator[Metric]:
        yield from self._slots()
        yield from self._plans()
        yield from self._adapters()
        yield from self._versions()

    def _slots(self) -> Iterator[Metric]:
        leases = self._leases
        yield _gauge("steer_slots", "Bank slots.", leases.num_slots)
        yield _gauge("steer_slots_resident", "Bank slots that hold an adapter.", len(leases.resident))
        yield _gauge("steer_slots_leased", "Bank slots in use.", leases.num_leased_slots)
        yield _gauge("steer_slot_leases", "Leases of bank slots.", leases.num_leases)
        yield _gauge("steer_requests_waiting", "Requests that wait for bank slots.", leases.num_waiting)
        yield _gauge("steer_requests_waiting_limit", "Most that may wait.", leases.max_waiting)

    def _plans(self) -> Iterator[Metric]:
        runs = self._in_flight.runs()
        yield _gauge("steer_plans_in_flight", "Steered requests in the engine.", sum(n for _, n in runs))
        yield _gauge("steer_plans_distinct", "Different plans among them.", len(runs))
        by_adapter: Tally[str] = Tally()
        num_barred = 0
        record = self._catalogue.replica.record
        quarantined = {v.digest for v in record.versions.values() if v.state is State.QUARANTINED}
        for plan, num in runs:
            by_adapter.update({f"{gate.name}@{gate.version}": num for gate in plan.adapters})
            num_barred += num * any(gate.digest in quarantined for gate in plan.adapters)
        family = GaugeMetricFamily(
            "steer_adapter_requests_running", "Requests in the engine, by adapter.", labels=["adapter"]
        )
        served = {adapter.title: 0 for adapter in self._catalogue.snapshot.adapters}
        for title, num in {**served, **by_adapter}.items():
            family.add_metric([title], num)
        yield family
        yield _gauge(
            "steer_quarantined_requests_running", "Requests under a version in quarantine.", num_barred
        )

    def _adapters(self) -> Iterator[Metric]:
        snapshot, resident = self._catalogue.snapshot, self._leases.resident
        info = GaugeMetricFamily(
            "steer_adapter_info", "1 for what may be used now.", labels=["adapter", "kind", "culture"]
        )
        in_slot = GaugeMetricFamily(
            "steer_adapter_resident", "1 if it is in a bank slot.", labels=["adapter"]
        )
        for one in (*snapshot.adapters, *snapshot.reward_heads.values()):
            culture = one.manifest.culture
            info.add_metric([one.title, one.manifest.kind, culture.id if culture else ""], 1)
        for adapter in snapshot.adapters:
            in_slot.add_metric([adapter.title], float(adapter.digest in resident))
        yield info
        yield in_slot
        yield _gauge("steer_adapters_active", "Adapters that may be used now.", len(snapshot.adapters))

    def _versions(self) -> Iterator[Metric]:
        replica = self._catalogue.replica
        family = GaugeMetricFamily("steer_adapter_versions", "Versions in the catalogue.", labels=["state"])
        found = Tally(version.state for version in replica.record.versions.values())
        for state in sorted(STORED):
            family.add_metric([state], found[state])
        yield family
        yield _gauge("steer_adapters_not_served", "Active, and not served here.", len(replica.problems))
        yield _gauge(
            "steer_adapter_folders_refused", "Folders that were refused.", len(self._catalogue.refused)
        )
        yield _gauge("steer_catalogue_revision", "What is served.", replica.record.revision)
        yield _gauge(
            "steer_catalogue_database_age_seconds",
            "Since the database last answered.",
            max(0.0, time.monotonic() - self._catalogue.database.last_answer),
        )


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_text, value=value)
