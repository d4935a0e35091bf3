"""Spans made by OpenTelemetry and sent by OTLP: the only module that imports its SDK, and only where traces
are switched on.

The SDK reads the rest of its own variables itself: headers, certificates, sampler, batches, resource.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from steer_server import __version__
from steer_server.observing.spans import Attributes, Kind, Span, Value
from steer_server.settings import OtlpTraces

KINDS = {Kind.INTERNAL: SpanKind.INTERNAL, Kind.SERVER: SpanKind.SERVER, Kind.CLIENT: SpanKind.CLIENT}
PROPAGATOR = TraceContextTextMapPropagator()
"""Not the SDK's default, which also passes on `baggage`: text of whoever sent it."""


def open_tracer(otlp: OtlpTraces) -> OtelTracer:
    """Sends spans in batches, the last of them when the process ends."""
    provider = TracerProvider(resource=Resource.create({"service.version": __version__}))
    provider.add_span_processor(BatchSpanProcessor(_exporter(otlp)))
    return OtelTracer(provider)


def _exporter(otlp: OtlpTraces) -> SpanExporter:
    if otlp.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        # As in vLLM: without https it is plain, whatever the scheme.
        return GrpcExporter(endpoint=otlp.endpoint, insecure=not otlp.endpoint.startswith("https:"))
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

    return HttpExporter(endpoint=otlp.endpoint)


class OtelTracer:
    """`spans.Tracer` on a provider, which is not made the process's own: that is vLLM's."""

    def __init__(self, provider: TracerProvider) -> None:
        self.provider = provider
        self._tracer = provider.get_tracer("steer_server", __version__)

    def begin(
        self, name: str, attributes: Attributes, kind: Kind, caller: Mapping[str, str] | None = None
    ) -> Span:
        # Without `caller` below the present span; with it never below one of ours.
        context = None if caller is None else PROPAGATOR.extract(caller, Context())
        return OtelSpan(
            self._tracer.start_span(name, context, KINDS[kind], attributes=_known(attributes)),
            kind,
        )

    def headers(self) -> dict[str, str]:
        carrier: dict[str, str] = {}
        PROPAGATOR.inject(carrier)
        return carrier


class OtelSpan:
    """Once it has ended nothing is added to it: a request that the server ends goes on for a moment."""

    def __init__(self, span: trace.Span, kind: Kind) -> None:
        self._span, self._kind = span, kind
        self._has_failed = self._has_ended = False

    @property
    def trace_id(self) -> str:
        return trace.format_trace_id(self._span.get_span_context().trace_id)

    def set(self, attributes: Attributes) -> None:
        if not self._has_ended:
            self._span.set_attributes(_known(attributes))

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def fail(self, error_type: str) -> None:
        if not self._has_failed and not self._has_ended:
            self._has_failed = True
            self._span.set_attribute("error.type", error_type)
            self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._span.end()

    def entered(self) -> AbstractContextManager[object]:
        # Exceptions have texts, which may quote the client.
        return trace.use_span(self._span, record_exception=False, set_status_on_exception=False)


def _known(attributes: Attributes) -> dict[str, Value]:
    return {name: value for name, value in attributes.items() if value is not None}
