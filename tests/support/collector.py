"""A collector of traces: takes OTLP over HTTP as the real ones do, and gives the spans in plain values."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

PATIENCE_S = 20.0
KINDS = {1: "internal", 2: "server", 3: "client"}
FAILED = 2


@dataclass(frozen=True)
class Taken:
    """A span as it came. Ids in hex, "" for no parent; instants in seconds of the epoch."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    began_s: float
    ended_s: float
    has_failed: bool
    state: str
    said: dict[str, object] = field(default_factory=dict)


class Collector:
    """What a collector has been sent.

    status: what it answers with. paths: where it was asked. resources: what was said of the senders.
    """

    def __init__(self, port: int = 0) -> None:
        self.status = 200
        self.paths: list[str] = []
        self.resources: list[dict[str, object]] = []
        self.spans: list[Taken] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.may_answer.wait(PATIENCE_S)
                collector.paths.append(self.path)
                if collector.status == 200:
                    collector._take(body)
                self.send_response(collector.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Be gone; safe to repeat."""
        self.may_answer.set()
        if not self._thread.is_alive():
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def until(self, is_there: Callable[[list[Taken]], bool]) -> list[Taken]:
        """Wait for spans; gives all that have come."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not is_there(list(self.spans)):
            assert time.monotonic() < deadline_s, [span.name for span in self.spans]
            time.sleep(0.02)
        return list(self.spans)

    def _take(self, body: bytes) -> None:
        for sender in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append({pair.key: _plain(pair.value) for pair in sender.resource.attributes})
            for scope in sender.scope_spans:
                self.spans += [
                    Taken(
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        KINDS[span.kind],
                        span.start_time_unix_nano / 1e9,
                        span.end_time_unix_nano / 1e9,
                        span.status.code == FAILED,
                        span.trace_state,
                        {pair.key: _plain(pair.value) for pair in span.attributes},
                    )
                    for span in scope.spans
                ]


def _plain(value: AnyValue) -> object:
    return getattr(value, value.WhichOneof("value") or "string_value")


@contextmanager
def collecting(port: int = 0) -> Iterator[Collector]:
    """Run a collector."""
    collector = Collector(port)
    try:
        yield collector
    finally:
        collector.close()
