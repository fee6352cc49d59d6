"""A stand-in for an OpenTelemetry collector: takes spans over HTTP, keeps them in memory."""

import contextlib
import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

TRACES_PATH = "/v1/traces"


class Collector(ThreadingHTTPServer):
    """What it was sent, as (service, process, span)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self._lock = threading.Lock()
        self._spans: list[tuple[str, str, Span]] = []

    @property
    def endpoint(self) -> str:
        """For OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"

    def take(self, request: ExportTraceServiceRequest) -> None:
        """Keep the spans of one export."""
        with self._lock:
            for resource in request.resource_spans:
                facts = {item.key: item.value for item in resource.resource.attributes}
                service = facts["service.name"].string_value
                process = str(facts["process.pid"].int_value)
                for scope in resource.scope_spans:
                    self._spans += [(service, process, span) for span in scope.spans]

    @property
    def spans(self) -> list[tuple[str, str, Span]]:
        """All that have come so far."""
        with self._lock:
            return list(self._spans)

    def trace(self, trace_id: str) -> list[tuple[str, str, Span]]:
        """The spans of one trace that have come so far."""
        with self._lock:
            return [found for found in self._spans if found[2].trace_id.hex() == trace_id]


class _Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path != TRACES_PATH:
            self.send_error(404)
            return
        self.server.take(ExportTraceServiceRequest.FromString(body))
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Say nothing."""


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector in a thread."""
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            collector.shutdown()
            thread.join()
