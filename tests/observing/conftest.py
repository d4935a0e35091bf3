"""The real app on the fake engine with a prompter and an upstream, traced into memory, its log in memory."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from steer_server.observing import logs
from steer_server.observing.tracing import OtelTracer
from tests.support.prompters import Prompted, prompted_server


@contextmanager
def logging_into(stream: io.StringIO, *, as_json: bool) -> Iterator[None]:
    """Our loggers as they were afterwards."""
    logger = logging.getLogger(logs.LOGGER)
    before = logger.handlers, logger.level, logger.propagate
    logs.configure(stream, as_json=as_json)
    try:
        yield
    finally:
        logger.handlers, logger.level, logger.propagate = before[0], before[1], before[2]


@dataclass
class World:
    prompted: Prompted
    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    log: io.StringIO = field(default_factory=io.StringIO)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    async def requests(self, number: int = 1) -> list[dict[str, Any]]:
        """The lines of requests, when there are so many: they are written behind a response's last byte."""
        async with asyncio.timeout(60):
            while len(found := [one for one in self.lines() if one["name"].endswith("requests")]) < number:
                await asyncio.sleep(0.01)
        assert len(found) == number
        return found

    async def request(self) -> dict[str, Any]:
        (line,) = await self.requests()
        return line

    def spans(self) -> list[ReadableSpan]:
        """In the order of their beginnings."""
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    async def span(self, name: str) -> ReadableSpan:
        """The only one of this name, when the request has ended."""
        await self.requests()
        (found,) = [span for span in self.spans() if span.name == name]
        return found

    async def tree(self) -> list[str]:
        """The names of one request's spans, indented below their parents."""
        await self.requests()
        spans = self.spans()
        assert len({span.context.trace_id for span in spans}) == 1
        (root,) = [span for span in spans if span.parent is None]

        def below(parent: ReadableSpan, depth: int) -> Iterator[str]:
            yield "  " * depth + parent.name
            for span in spans:
                if span.parent is not None and span.parent.span_id == parent.context.span_id:
                    yield from below(span, depth + 1)

        found = list(below(root, 0))
        assert len(found) == len(spans)
        return found

    def forget(self) -> None:
        self.exporter.clear()
        self.log.seek(0)
        self.log.truncate()


@pytest.fixture(scope="session")
async def traced(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with prompted_server(tmp_path_factory.mktemp("traced")) as prompted:
        world = World(prompted)
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(world.exporter))
        prompted.steer.tracer = OtelTracer(provider)
        yield world
        provider.shutdown()


@pytest.fixture
async def world(traced: World) -> AsyncIterator[World]:
    traced.prompted.begin()
    traced.forget()
    with logging_into(traced.log, as_json=True):
        yield traced
    traced.prompted.end()
