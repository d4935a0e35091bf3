"""What vLLM is told of a request that is observed: a trace to go on with, and an id that no other has."""

from __future__ import annotations

from typing import Any, cast

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from steer_server.observing.spans import current_tracer, span
from steer_server.observing.tracing import OtelTracer
from steer_server.settings import Settings
from steer_server.steering.plan import BASE_PLAN
from tests.support.vllm_warnings import IMPORTS_VLLM

pytestmark = IMPORTS_VLLM


class Client:
    """vLLM's engine client, as far as it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def generate(self, prompt: Any, sampling: Any, request_id: str, **options: Any) -> None:
        self.asked.append((request_id, options))


class Handlers:
    """As much of VllmEngine as a run needs: a handler that generates twice."""

    def __init__(self) -> None:
        from steer_server.engine.vllm_run import SteeredClient

        self.client = Client()
        self.steered = SteeredClient(self.client)
        self.handlers = {"chat": (self, self.handle)}

    def model_validate(self, body: Any) -> Any:
        return body

    def model_dump(self) -> dict[str, Any]:
        return {}

    async def handle(self, parsed: Any, request: Any) -> Any:
        for _ in range(2):
            self.steered.generate("p", None, "chatcmpl-order-66", trace_headers={"traceparent": "theirs"})
        return self


async def run(engine: Handlers) -> list[str]:
    """Ids of its requests in the engine."""
    from steer_server.engine.vllm_run import VllmRun

    made = VllmRun(cast(Any, engine), "chat", {}, BASE_PLAN, cast(Any, None))
    await made.answer()
    return made.request_ids


async def test_requests_that_share_an_id_have_different_ones_in_the_engine() -> None:
    engine = Handlers()
    ids = [*await run(engine), *await run(engine)]
    assert len(set(ids)) == 4 and all(one.startswith("chatcmpl-order-66-") for one in ids)
    assert [request_id for request_id, _ in engine.client.asked] == ids


async def test_vllms_spans_lie_below_ours() -> None:
    from vllm.tracing import extract_trace_context

    engine = Handlers()
    token = current_tracer.set(OtelTracer(TracerProvider()))
    try:
        with span("chat fake"):
            ours = trace.get_current_span().get_span_context()
            await run(engine)
    finally:
        current_tracer.reset(token)
    for _, options in engine.client.asked:
        parent = trace.get_current_span(extract_trace_context(options["trace_headers"])).get_span_context()
        assert (parent.trace_id, parent.span_id) == (ours.trace_id, ours.span_id)


async def test_without_a_trace_of_ours_the_handlers_own_stands() -> None:
    engine = Handlers()
    await run(engine)
    assert [options["trace_headers"] for _, options in engine.client.asked] == [{"traceparent": "theirs"}] * 2


@pytest.mark.parametrize("given", [[], ["--otlp-traces-endpoint"]])
def test_vllm_sends_its_spans_where_ours_go_unless_it_is_told_where(
    given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from steer_server.engine.launch import observing_options

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    options = observing_options(given, Settings(log_format="json"))
    assert options["disable_uvicorn_access_log"] is True
    assert options["logging_config"].formatter == "json"
    assert options.get("otlp_traces_endpoint") == (None if given else "http://collector:4317")
