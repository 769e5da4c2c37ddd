"""Tracing by OpenTelemetry's SDK, sent to a collector over HTTP by a thread of its own.

The service never waits for the collector: spans go into a bounded queue, and what does not fit, or cannot be sent in time, is
dropped and counted. (The SDK's own batch processor does not tell what it drops, and may hold up the end for half a minute.)
"""

import asyncio
import os
import queue
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Final

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import Counter

from openride_analytics import __version__
from openride_analytics.ops.tracing import Attributes, Kind, Span, Tracing

log = structlog.get_logger(__name__)

_MOST_WAITING: Final = 4_096
_SENT_AT_ONCE: Final = 512
_SEND_EVERY_SECONDS: Final = 1.0
_SEND_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 2.0
_KINDS: Final[dict[Kind, SpanKind]] = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "consumer": SpanKind.CONSUMER,
}


class _RecordedSpan(Span):
    def __init__(self, span: trace.Span) -> None:
        self.otel = span
        if span.is_recording():
            self.trace_id = trace.format_trace_id(span.get_span_context().trace_id)

    def set(self, name: str, value: str | float) -> None:
        """See `Span.set`."""
        self.otel.set_attribute(name, value)

    def rename(self, name: str) -> None:
        """See `Span.rename`."""
        self.otel.update_name(name)

    def fail(self, error: str) -> None:
        """See `Span.fail`."""
        self.otel.set_attribute("error.type", error)
        self.otel.set_status(StatusCode.ERROR)


@contextmanager
def _ended(span: trace.Span) -> Iterator[_RecordedSpan]:
    """Ends a span with the context, as a failure where something is raised."""
    recorded = _RecordedSpan(span)
    try:
        yield recorded
    except BaseException as error:
        recorded.fail(type(error).__name__)
        raise
    finally:
        span.end()


class RecordedTracing(Tracing):
    """Spans that are sent to a collector.

    OpenTelemetry's own variables in the environment say the rest: OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER,
    OTEL_RESOURCE_ATTRIBUTES.
    """

    on = True

    def __init__(self, endpoint: str, dropped: Counter) -> None:
        self._sender = _Sender(OTLPSpanExporter(endpoint, timeout=_SEND_SECONDS), dropped)
        provider = TracerProvider(
            resource=Resource.create(
                {
                    "service.name": "openride-analytics",
                    "service.version": __version__,
                    "service.instance.id": f"{socket.gethostname()}/{os.getpid()}",
                }
            ),
            shutdown_on_exit=False,  # `close` ends it, in bounded time
        )
        provider.add_span_processor(self._sender)
        self._tracer = provider.get_tracer("openride_analytics", __version__)
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def span(
        self,
        name: str,
        *,
        kind: Kind = "internal",
        attributes: Attributes | None = None,
        headers: Mapping[str, str] | None = None,
        start_ns: int | None = None,
    ) -> Iterator[Span]:
        """See `Tracing.span`."""
        span = self._tracer.start_span(
            name,
            self._propagator.extract(headers) if headers else None,
            kind=_KINDS[kind],
            attributes=attributes,
            start_time=start_ns,
        )
        # What errors say may hold statements and values: their kind must do.
        with (
            _ended(span) as recorded,
            trace.use_span(span, record_exception=False, set_status_on_exception=False),
        ):
            yield recorded

    def statement(self, name: str, system: str) -> AbstractContextManager[Span]:
        """See `Tracing.statement`."""
        if trace.get_current_span() is trace.INVALID_SPAN:
            return super().statement(name, system)
        attributes = {"db.system.name": system, "db.query.summary": name}
        return _ended(self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes))

    def past(self, name: str, parent: Span, start_ns: int, end_ns: int, attributes: Attributes) -> None:
        """See `Tracing.past`."""
        if isinstance(parent, _RecordedSpan):
            context = trace.set_span_in_context(parent.otel)
            self._tracer.start_span(name, context, attributes=attributes, start_time=start_ns).end(end_ns)

    async def close(self) -> None:
        """See `Tracing.close`."""
        await self._sender.close()


class _Sender(SpanProcessor):
    """Takes spans that have ended, and sends them from a thread that nobody waits for."""

    def __init__(self, exporter: SpanExporter, dropped: Counter) -> None:
        self._exporter = exporter
        self._dropped = dropped
        self._waiting: queue.Queue[ReadableSpan | None] = queue.Queue(_MOST_WAITING)
        self._closing = threading.Event()
        self._is_away = False
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def on_end(self, span: ReadableSpan) -> None:
        """Called by whoever ends a span, on the event loop: it must not wait."""
        if not span.context or not span.context.trace_flags.sampled:
            return
        try:
            self._waiting.put_nowait(span)
        except queue.Full:
            self._dropped.inc()

    async def close(self) -> None:
        """Sends what is there, for a short time."""
        self._closing.set()
        with suppress(queue.Full):
            self._waiting.put_nowait(None)  # wakes the thread where it waits for a span
        await asyncio.to_thread(self._thread.join, _CLOSE_SECONDS)
        if self._thread.is_alive():
            self._dropped.inc(self._waiting.qsize())
            log.warning("traces_left", spans=self._waiting.qsize())
        self._exporter.shutdown()

    def _run(self) -> None:
        while True:
            spans = self._taken()
            if spans:
                self._send(spans)
            elif self._closing.is_set():
                return

    def _taken(self) -> list[ReadableSpan]:
        """Some spans, as soon as the first of them has waited a little; none where there are none."""
        try:
            first = self._waiting.get(timeout=_SEND_EVERY_SECONDS)
        except queue.Empty:
            return []
        if self._waiting.qsize() < _SENT_AT_ONCE:
            self._closing.wait(_SEND_EVERY_SECONDS)
        spans = [first]
        while len(spans) < _SENT_AT_ONCE:
            try:
                spans.append(self._waiting.get_nowait())
            except queue.Empty:
                break
        return [span for span in spans if span is not None]

    def _send(self, spans: list[ReadableSpan]) -> None:
        try:
            failed = self._exporter.export(spans) is not SpanExportResult.SUCCESS
        except Exception as error:  # whatever it is, the thread must go on
            log.error("traces_not_sent", spans=len(spans), exc_info=error)
            failed = True
        if failed:
            self._dropped.inc(len(spans))
            if not self._is_away:  # said once, and counted from then on
                log.warning("traces_not_sent", spans=len(spans))
        elif self._is_away:
            log.info("traces_sent_again")
        self._is_away = failed
