"""What metrics cost is computed from what was measured, and too much of it is an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from steer_server.errors import EvaluationError
from steer_server.evaluation.load import metrics_cost
from steer_server.evaluation.load.metrics_cost import (
    EVENT,
    LONG,
    MetricsCostOptions,
    evaluate_metrics_cost,
    measure_code,
    run_metrics_cost,
)
from steer_server.metrics import Metrics
from steer_server.steering.plan import AdapterGate, SteeringPlan
from tests.support.servers import Running


async def test_the_measured_stream_leaves_in_the_metrics_what_a_served_one_leaves() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.adapters.keep(["amber@1.0.0"])
    plan = SteeringPlan("adapters", (AdapterGate("amber", "1.0.0", "d", 0.5),))
    await metrics_cost._stream(LONG, metrics, plan)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"steer_{name}", labels)

    assert value("requests_total", route="chat", method="adapters", status="200") == 1
    assert value("time_per_output_token_seconds_count", method="adapters") == 1
    assert value("request_duration_seconds_count", route="chat", method="adapters") == 1
    assert value("slot_wait_seconds_count", method="adapters") == value("plan_seconds_count") == 1
    assert value("requests_running", method="adapters") == 0
    for name in ("time_to_first_token", "time_per_output_token", "request_duration", "slot_wait"):
        assert value(f"adapter_{name}_seconds_count", adapter="amber@1.0.0") == 1
    assert value("adapter_requests_total", adapter="amber@1.0.0", outcome="answered") == 1
    assert json.loads(EVENT.removeprefix("data: "))["choices"][0]["delta"]["content"]


async def test_code_that_takes_longer_costs_more() -> None:
    plain = await measure_code(1, num_streams=20)
    many = await measure_code(30, num_streams=20)
    assert plain.token_seconds > 0
    assert many.request_seconds > plain.request_seconds > 0


async def test_the_share_is_what_the_parts_add_up_to(fake: Running) -> None:
    asked = MetricsCostOptions(fake.url, streams=3, seconds=0.5, max_tokens=5)
    results = await run_metrics_cost(asked)
    code, per_second, shares = results["code"], results["per_second"], results["shares"]
    assert per_second["tokens"] == pytest.approx(5 * per_second["requests"])
    assert shares["tokens"] == pytest.approx(code["token_seconds"] * per_second["tokens"], abs=1e-5)
    assert shares["scrapes"] == pytest.approx(results["scrape_seconds"] / 15, abs=1e-5)
    assert results["share"] == pytest.approx(sum(shares.values()), abs=1e-5)


@pytest.mark.parametrize(("share", "is_little"), [(0.0099, True), (0.01, False)])
def test_one_per_cent_is_too_much(
    fake: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, is_little: bool
) -> None:
    async def ran(_: MetricsCostOptions) -> dict[str, Any]:
        return {
            "server": {"url": fake.url},
            "code": {"request_seconds": 5e-5, "token_seconds": 1e-6},
            "per_second": {"requests": 4.0, "tokens": 250.0},
            "scrape_seconds": 0.01,
            "shares": {"requests": 0.0002, "tokens": 0.00025, "scrapes": share - 0.00045},
            "share": share,
        }

    monkeypatch.setattr(metrics_cost, "run_metrics_cost", ran)
    if is_little:
        evaluate_metrics_cost(MetricsCostOptions(fake.url), tmp_path)
    else:
        with pytest.raises(EvaluationError, match="not shown: metrics_cost_little"):
            evaluate_metrics_cost(MetricsCostOptions(fake.url), tmp_path)
    assert "share of time" in (tmp_path / "report.html").read_text()
