"""Traces for OpenTelemetry, if the settings ask for them; without that nothing of it is loaded.

What leaves in a span is scrubbed like a line of the log, and no address keeps its query: some vendors take
their secret there, and a callback's path holds its token.
"""

import asyncio
import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runtime import Problem
from runtime.logs import Redaction
from runtime.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

EXTRA = "otel"
_NEEDED = (
    "opentelemetry.sdk",
    "opentelemetry.exporter.otlp.proto.http",
    "opentelemetry.instrumentation.httpx",
    "opentelemetry.instrumentation.asyncpg",
)
_QUERY = re.compile(r"(https?://[^\s?\"']+)\?[^\s\"']*")

# A collector that does not answer must not hold up the end of a process.
_FLUSH_SECONDS = 5.0

_tracer: "Tracer | None" = None
_provider: "TracerProvider | None" = None


def tracer() -> "Tracer | None":
    """The tracer of this process; None where nothing is traced."""
    return _tracer


def check(settings: Settings) -> None:
    """Raise `Problem` if the settings ask for traces and what makes them is not installed."""
    if not settings.telemetry.traces:
        return
    for name in _NEEDED:
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise Problem(
                f"telemetry.traces is on, and {name} is not installed:"
                f" pip install 'huizhi[{EXTRA}]', or turn it off"
            )


@contextlib.contextmanager
def traced(
    settings: Settings, process: str, *, exporter: "SpanExporter | None" = None
) -> Iterator[None]:
    """Trace this process within the block if the settings ask for it; what is left is sent by `flush`.

    `process` is "receiver", of whose requests a share is traced, or "reconciler". Spans go to `exporter`,
    else where the standard variables `OTEL_EXPORTER_OTLP_*` say.
    """
    if not settings.telemetry.traces:
        yield
        return
    global _tracer, _provider
    from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
    from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    if exporter is None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter()
    share = settings.telemetry.sample_ratio if process == "receiver" else 1.0
    provider = TracerProvider(
        sampler=_sampler(share),
        resource=Resource.create({"service.name": f"huizhi-{process}", "process.pid": os.getpid()}),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(
        BatchSpanProcessor(_scrubbing(exporter, Redaction(settings.secrets)))
    )
    instrumentors = (HTTPXClientInstrumentor(), AsyncPGInstrumentor())  # type: ignore[no-untyped-call]
    for each in instrumentors:
        each.instrument(tracer_provider=provider)
    _tracer, _provider = provider.get_tracer("huizhi"), provider
    try:
        yield
    finally:
        _tracer = _provider = None
        for each in instrumentors:
            each.uninstrument()
        provider.shutdown()


async def flush() -> None:
    """Send what is left, as far as that goes in a few seconds.

    A server that was told to stop ends by that signal, and comes back to nobody.
    """
    if _provider is not None:
        await asyncio.to_thread(_provider.force_flush, int(_FLUSH_SECONDS * 1000))


@contextlib.contextmanager
def span(name: str, **attributes: str) -> Iterator[None]:
    """Make a span of the block, with attributes `huizhi.NAME`; nothing where nothing is traced."""
    if _tracer is None:
        yield
        return
    named = {f"huizhi.{key}": value for key, value in attributes.items()}
    with _tracer.start_as_current_span(name, attributes=named):
        yield


def scrubbed(text: str, redaction: Redaction) -> str:
    """Return `text` without secrets, numbers, and the queries of addresses; pure."""
    return redaction(_QUERY.sub(r"\1", text))


def _sampler(share: float) -> Any:
    from opentelemetry.sdk.trace.sampling import (
        ALWAYS_OFF,
        ParentBased,
        Sampler,
        SamplingResult,
        TraceIdRatioBased,
    )
    from opentelemetry.trace import SpanKind

    class Own(Sampler):
        """Takes a share of what begins here; a call that belongs to nothing tells nobody anything."""

        _share = TraceIdRatioBased(share)

        def should_sample(
            self,
            parent_context: Any,
            trace_id: int,
            name: str,
            kind: Any = None,
            *rest: Any,
            **more: Any,
        ) -> SamplingResult:
            chosen = ALWAYS_OFF if kind == SpanKind.CLIENT else self._share
            return chosen.should_sample(parent_context, trace_id, name, kind, *rest, **more)

        def get_description(self) -> str:
            return f"Huizhi{{{share}}}"

    return ParentBased(root=Own())


def _scrubbing(exporter: "SpanExporter", redaction: Redaction) -> "SpanExporter":
    """Return an exporter that hands scrubbed spans to `exporter`."""
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import Status

    def clean(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
        return {key: _clean(value, redaction) for key, value in (attributes or {}).items()}

    def copy(span: ReadableSpan) -> ReadableSpan:
        words = span.status.description
        return ReadableSpan(
            name=scrubbed(span.name, redaction),
            context=span.context,
            parent=span.parent,
            resource=span.resource,
            attributes=clean(span.attributes),
            events=[
                Event(event.name, clean(event.attributes), event.timestamp) for event in span.events
            ],
            links=span.links,
            kind=span.kind,
            status=Status(
                span.status.status_code, None if words is None else scrubbed(words, redaction)
            ),
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )

    class Scrubbing(SpanExporter):
        def export(self, spans: "Sequence[ReadableSpan]") -> SpanExportResult:
            return exporter.export([copy(span) for span in spans])

        def shutdown(self) -> None:
            exporter.shutdown()

        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            return exporter.force_flush(timeout_millis)

    return Scrubbing()


def _clean(value: Any, redaction: Redaction) -> Any:
    if isinstance(value, str):
        return scrubbed(value, redaction)
    if isinstance(value, tuple | list):
        return [_clean(each, redaction) for each in value]
    return value
