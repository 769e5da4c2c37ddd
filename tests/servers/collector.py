"""A collector of traces, as OpenTelemetry's exporters see it: OTLP over HTTP, in protobuf."""

import gzip
import socketserver
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.servers.process import HOST

_PATIENCE_SECONDS = 30.0


class Collector:
    """What was sent to `endpoint`, and with which headers and resource."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://{HOST}:{port}/v1/traces"
        self.headers: list[dict[str, str]] = []
        self.resource: dict[str, str] = {}
        self._spans: list[Span] = []
        self._changed = threading.Condition()

    def take(self, body: bytes, headers: dict[str, str]) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self._changed:
            self.headers.append(headers)
            for of_resource in request.resource_spans:
                self.resource = {
                    attribute.key: attribute.value.string_value
                    for attribute in of_resource.resource.attributes
                }
                for of_scope in of_resource.scope_spans:
                    self._spans += of_scope.spans
            self._changed.notify_all()

    def spans(self, trace_id: str = "") -> list[Span]:
        """Those that have come, of one trace or of all."""
        with self._changed:
            return [span for span in self._spans if trace_id in ("", span.trace_id.hex())]

    def wait_for(self, *names: str, trace_id: str = "") -> dict[str, Span]:
        """The last spans of these names, as soon as there are all."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            found = {span.name: span for span in self.spans(trace_id)}
            if found.keys() >= set(names):
                return found
            assert time.monotonic() < deadline, (
                f"{sorted(set(names) - found.keys())} are not there: {sorted(found)}"
            )
            with self._changed:
                self._changed.wait(0.1)


def attributes_of(span: Span) -> dict[str, Any]:
    """Its attributes as plain values."""
    return {
        attribute.key: getattr(attribute.value, attribute.value.WhichOneof("value") or "string_value")
        for attribute in span.attributes
    }


def children_of(parent: Span, spans: Sequence[Span]) -> set[str]:
    """The names of a span's direct children."""
    return {
        span.name
        for span in spans
        if span.trace_id == parent.trace_id and span.parent_span_id == parent.span_id
    }


@contextmanager
def collecting(port: int = 0) -> Iterator[Collector]:
    """A collector that works."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            assert self.headers["Content-Type"] == "application/x-protobuf"
            collector.take(body, dict(self.headers.items()))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer((HOST, port), Handler) as server:
        server.daemon_threads = True
        collector = Collector(server.server_address[1])
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield collector
        finally:
            server.shutdown()


class HangingCollector:
    """A collector that takes everything and never answers. `reached`: somebody sends."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://{HOST}:{port}/v1/traces"
        self.reached = threading.Event()


@contextmanager
def hanging() -> Iterator[HangingCollector]:
    """One that hangs until the end of the context."""
    over = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            collector.reached.set()
            over.wait()

    with socketserver.ThreadingTCPServer((HOST, 0), Handler) as server:
        server.daemon_threads = True
        collector = HangingCollector(server.server_address[1])
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield collector
        finally:
            over.set()
            server.shutdown()
