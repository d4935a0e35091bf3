"""Where traces go, by OpenTelemetry's own variables; that they arrive; and that nothing is there without."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from steer_server.errors import ConfigError
from steer_server.observing.spans import NO_SPAN, begin_span, span, trace_headers
from steer_server.observing.tracing import open_tracer
from steer_server.settings import OtlpTraces, otlp_traces, share_traces
from tests.observing.conftest import World
from tests.support.collector import Collector, grpc_collector, http_collector

HOST = "http://collector:4318"
OFF: dict[str, str] = {}

IN_ANOTHER_PROCESS = """
import asyncio, sys
from pathlib import Path
from tests.support.adapters import TINY, tiny_base_model
from tests.support.servers import fake_server

async def main():
    folder = Path(sys.argv[1])
    tiny_base_model(folder / TINY)
    async with fake_server(folder, folder / TINY) as server, server.client() as client:
        body = {"steering": {"cultures": {"amber": 1.0}, "reward_heads": ["warm"]}}
        messages = [{"role": "user", "content": "hello"}]
        await client.chat.completions.create(model="fake", messages=messages, extra_body=body)

asyncio.run(main())
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Sets OpenTelemetry's variables to these alone."""

    def become(variables: dict[str, str]) -> None:
        for name in [name for name in os.environ if name.startswith("OTEL_")]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(f"OTEL_{name}", value)

    return become


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        (OFF, None),
        ({"EXPORTER_OTLP_ENDPOINT": HOST}, OtlpTraces(HOST, "grpc")),
        (
            {"EXPORTER_OTLP_ENDPOINT": f"{HOST}/", "EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            OtlpTraces(f"{HOST}/v1/traces", "http/protobuf"),
        ),
        (
            {"EXPORTER_OTLP_TRACES_ENDPOINT": HOST, "EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
            OtlpTraces(HOST, "http/protobuf"),
        ),
        (
            {"EXPORTER_OTLP_PROTOCOL": "grpc", "EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
            None,
        ),
        ({"TRACES_EXPORTER": "otlp"}, OtlpTraces("http://localhost:4317", "grpc")),
        ({"TRACES_EXPORTER": "none", "EXPORTER_OTLP_ENDPOINT": HOST}, None),
        ({"SDK_DISABLED": "true", "EXPORTER_OTLP_ENDPOINT": HOST}, None),
    ],
)
def test_the_standard_variables_say_where_traces_go(
    environment: Callable[[dict[str, str]], None], variables: dict[str, str], found: OtlpTraces | None
) -> None:
    environment(variables)
    assert otlp_traces() == found


@pytest.mark.parametrize(
    "variables", [{"TRACES_EXPORTER": "zipkin"}, {"EXPORTER_OTLP_PROTOCOL": "http/json"}]
)
def test_what_cannot_be_done_stops_the_start(
    environment: Callable[[dict[str, str]], None], variables: dict[str, str]
) -> None:
    environment({"EXPORTER_OTLP_ENDPOINT": HOST, **variables})
    with pytest.raises(ConfigError, match="OTEL_"):
        otlp_traces()


@pytest.mark.parametrize(
    ("variables", "service"),
    [
        (OFF, "steer-server"),
        ({"SERVICE_NAME": "mine"}, "mine"),
        ({"RESOURCE_ATTRIBUTES": "service.name=ours"}, "ours"),
    ],
)
@pytest.mark.parametrize(
    ("collector", "protocol"), [(http_collector, "http/protobuf"), (grpc_collector, "grpc")]
)
async def test_spans_arrive_at_a_collector(
    world: World,
    environment: Callable[[dict[str, str]], None],
    collector: Callable[[], AbstractContextManager[Collector]],
    protocol: str,
    variables: dict[str, str],
    service: str,
) -> None:
    environment(variables)
    share_traces()
    steer = world.prompted.steer
    before = steer.tracer
    with collector() as collected:
        tracer = open_tracer(OtlpTraces(collected.endpoint, protocol))
        steer.tracer = tracer
        try:
            await world.prompted.chat({"cultures": {"amber": 1.0}})
            line = await world.request()
            assert tracer.provider.force_flush()
        finally:
            steer.tracer = before
            tracer.provider.shutdown()
        spans = {span.name: span for span in collected.spans()}
        assert spans.keys() == {"POST /v1/chat/completions", "plan", "queue", "chat fake"}
        assert {span.trace_id.hex() for span in spans.values()} == {line["trace_id"]}
        assert collected.resource()["service.name"] == service


def test_without_a_tracer_a_span_is_nothing() -> None:
    with span("plan", {"steer.plan": "x"}) as made:
        made.set({"a": 1})
        made.fail("b")
    assert made is NO_SPAN is begin_span("plan", {}) and made.trace_id is None
    assert trace_headers() == {}


def test_switched_off_nothing_of_opentelemetry_is_imported(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


async def test_requests_that_are_not_traced_have_a_line_without_a_trace(world: World) -> None:
    steer = world.prompted.steer
    before, steer.tracer = steer.tracer, None
    try:
        await world.prompted.chat({"cultures": {"amber": 1.0}}, stream=True)
        line = await world.request()
    finally:
        steer.tracer = before
    assert line["request_id"] and "trace_id" not in line and not world.spans()
