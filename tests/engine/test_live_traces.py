"""The real server's spans and vLLM's own, at a collector: one trace, which the log names."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from steer_server.catalogue.base_model import BaseModel
from steer_server.settings import Settings
from tests.support.adapters import TINY, random_adapter
from tests.support.administration import PROMPT
from tests.support.collector import grpc_collector
from tests.support.servers import LEAST_OPTIONS, supervised_server
from tests.support.tiny_model import FOR_VLLM, tiny_model_with_weights

EXPORT_SECONDS = 60.0
OURS = {"POST /v1/chat/completions", "plan", "queue"}


def lines_of(request_id: str, log: Path) -> list[dict[str, Any]]:
    """The log's whole lines that name the request."""
    *whole, _ = log.read_text().split("\n")
    return [json.loads(one) for one in whole if one.startswith("{") and f'"{request_id}"' in one]


@pytest.mark.engine
async def test_vllms_spans_lie_below_ours_in_one_trace_that_the_log_names(tmp_path: Path) -> None:
    model = tiny_model_with_weights(tmp_path / TINY, **FOR_VLLM)
    random_adapter(tmp_path / "adapters", "amber", BaseModel.of(Settings(model=str(model))))
    options = ("--model", str(model), "--adapters", str(tmp_path / "adapters"), *LEAST_OPTIONS)
    body = {"messages": PROMPT, "max_tokens": 4, "steering": {"cultures": {"amber": 1.0}}}
    with grpc_collector() as collected:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collected.endpoint}
        with supervised_server(tmp_path / "served", *options, environment=environment) as (running, _):
            async with running.http() as http:
                answer = await http.post(
                    "/v1/chat/completions", json=body, headers={"X-Request-Id": "order-66"}
                )
            assert answer.status_code == 200, answer.text
            # Both come after the answer: the line, and the spans.
            async with asyncio.timeout(EXPORT_SECONDS):
                while not (lines := lines_of("order-66", tmp_path / "served" / "server.log")):
                    await asyncio.sleep(0.1)
                (line,) = lines
                while True:
                    spans = [one for one in collected.spans() if one.trace_id.hex() == line["trace_id"]]
                    by_name = {one.name: one for one in spans}
                    if by_name.keys() >= OURS and "llm_request" in by_name:
                        break
                    await asyncio.sleep(0.5)
    (call,) = (one for one in spans if one.name.startswith("chat"))
    assert by_name["llm_request"].parent_span_id == call.span_id
    assert call.parent_span_id == by_name["POST /v1/chat/completions"].span_id
    assert line["request_id"] == answer.headers["X-Request-Id"] == "order-66"
