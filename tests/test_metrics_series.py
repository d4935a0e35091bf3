"""How many series `/metrics` has, with many adapters that are all in use, and when they are gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from steer_server.metrics import Metrics
from steer_server.metrics.adapters import FIRST_TOKEN_BUCKETS, Outcome
from steer_server.settings import Settings
from steer_server.steering.plan import AdapterGate, SteeringPlan
from tests.support.adapters import TINY, random_adapter, tiny_base_model
from tests.support.administration import PROMPT, act
from tests.support.heads import random_head
from tests.support.servers import Running, app_server

NUM_MANY, NUM_SERVED, NUM_HEADS = 200, 6, 2
NUM_GAUGES = 3
"""Info, running, resident."""
NUM_SUMMARIES = 3
"""Time per output token, duration, wait for slots: a sum and a count each; so has a score by each head."""
NUM_LOAD_OUTCOMES = 2
NUM_COUNTED = (
    len(Outcome) + NUM_LOAD_OUTCOMES + len(FIRST_TOKEN_BUCKETS) + 3 + 2 * NUM_SUMMARIES + 2 * NUM_HEADS
)
"""Most series of one adapter beside its gauges; 3: +Inf, sum and count."""


def samples(page: str) -> list[Sample]:
    """Of ours, less when each began, which the shipped configuration drops."""
    return [
        sample
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name.startswith("steer_") and not sample.name.endswith("_created")
    ]


def by_adapter(found: Iterable[Sample]) -> Counter[str]:
    titles = (sample.labels.get("adapter", "") for sample in found)
    return Counter(title for title in titles if title.startswith("one-"))


def test_200_adapters_have_a_fixed_number_of_series_each_and_none_when_they_are_gone() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    titles = [f"one-{number:03}@1.0.0" for number in range(NUM_MANY)]

    def use(title: str) -> None:
        name, version = title.split("@")
        plan = SteeringPlan("adapters", (AdapterGate(name, version, "d", 1.0),))
        metrics.note_slot_wait(plan, 1.0)
        metrics.adapters.note_scores({f"h{head}": 0.5 for head in range(NUM_HEADS)}, plan)
        for outcome in Outcome:
            metrics.adapters.note_load(title, outcome if outcome is Outcome.FAILED else Outcome.ANSWERED)
            for counted in metrics.adapters.of(plan):
                metrics.adapters.requests_total.labels(counted, outcome).inc()
                metrics.adapters.first_token_seconds.labels(counted).observe(1.0)
                metrics.adapters.output_token_seconds.labels(counted).observe(1.0)
                metrics.adapters.duration_seconds.labels(counted).observe(1.0)

    def found() -> list[Sample]:
        return samples(generate_latest(registry).decode())

    # The first wait of a method makes series of the method.
    metrics.note_slot_wait(SteeringPlan("adapters"), 1.0)
    num_others = len(found())
    metrics.adapters.keep(titles)
    for title in titles:
        use(title)
    assert by_adapter(found()) == dict.fromkeys(titles, NUM_COUNTED)
    assert len(found()) == num_others + NUM_MANY * NUM_COUNTED
    metrics.adapters.keep(titles[:50])
    for title in titles:
        use(title)
    assert by_adapter(found()) == dict.fromkeys(titles[:50], NUM_COUNTED)
    assert len(found()) == num_others + 50 * NUM_COUNTED
    metrics.adapters.keep([])
    assert len(found()) == num_others


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    folder = tmp_path_factory.mktemp("several")
    base = tiny_base_model(folder / TINY)
    adapters = folder / "adapters"
    for number in range(NUM_SERVED):
        random_adapter(adapters, f"one-{number:03}", base, rank=1, seed=number)
    for number in range(NUM_HEADS):
        random_head(adapters, f"head-{number}", base, head=f"h{number}")
    settings = Settings(
        model=base.path, served_model_name="fake", bank_rank=8, adapters=adapters, data=folder / "data"
    )
    async with app_server(settings) as running:
        yield running


async def test_a_served_page_has_the_same_number_for_each_adapter_in_use(server: Running) -> None:
    body = {"model": server.model, "messages": PROMPT, "max_tokens": 3, "stream": True}
    heads = [f"h{number}" for number in range(NUM_HEADS)]
    async with server.http() as http:

        async def ask(culture: str) -> int:
            steering = {"cultures": {culture: 0.5}, "reward_heads": heads}
            return (await http.post("/v1/chat/completions", json={**body, "steering": steering})).status_code

        async def page() -> Counter[str]:
            return by_adapter(samples((await http.get("/metrics")).text))

        assert [await ask(culture) for culture in server.cultures] == [200] * NUM_SERVED
        # All were answered and every load worked: the other outcomes have no series.
        num_used = NUM_GAUGES + NUM_COUNTED - (len(Outcome) - 1) - (NUM_LOAD_OUTCOMES - 1)
        titles = [f"one-{number:03}@1.0.0" for number in range(NUM_SERVED)]
        assert await page() == dict.fromkeys(titles, num_used)
        assert (await act(server, "one-000/deactivate")).status_code == 200
        assert (await act(server, "one-001/versions/1.0.0/quarantine")).status_code == 200
        assert [await ask(f"one-{number:03}") for number in range(3)] == [400, 400, 200]
        assert await page() == dict.fromkeys(titles[2:], num_used)
