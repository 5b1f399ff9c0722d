"""Send spans to a collector by OTLP over HTTP, in batches and from a thread of OpenTelemetry's own.

Needs the extra `otel`; `app/traces.py` imports this module only where traces are asked for. A collector that is slow
or gone costs spans, and nothing else: what waits for it is bounded, and of its end and return there is one line each.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from typing_extensions import override

from sglang_diffusion_routing import __version__
from sglang_diffusion_routing.spans import Kind, Span, TraceContext

_log = structlog.get_logger(__name__)

QUEUE_SPANS = 8192
"""Spans that wait for the collector, about 1.5 KB each; a request is about five. `OTEL_BSP_MAX_QUEUE_SIZE` is another
word for it."""
TIMEOUT_S = 5.0
"""For one batch, with all that is tried again; `OTEL_EXPORTER_OTLP_TIMEOUT` is another word for it."""
CLOSE_S, LEAVE_S = 3.0, 0.5
"""When the router ends, what is left is sent within the first, and broken off within the second."""

_KINDS = {Kind.INTERNAL: SpanKind.INTERNAL, Kind.SERVER: SpanKind.SERVER, Kind.CLIENT: SpanKind.CLIENT}
_FLAGS = TraceFlags(TraceFlags.SAMPLED)
_SCOPE = InstrumentationScope("sglang_diffusion_routing", __version__)
_UNSET = Status(StatusCode.UNSET)


class Otlp:
    """Records spans with a collector. Made on the running event loop, whose clock the spans' instants are on.

    Args:
        endpoint: where to; None to have OpenTelemetry's own variables say it.
    """

    def __init__(self, endpoint: str | None) -> None:
        timeout_s = None if os.environ.get("OTEL_EXPORTER_OTLP_TIMEOUT") else TIMEOUT_S
        self._exporter = _Telling(OTLPSpanExporter(endpoint, timeout=timeout_s))
        queue_spans = None if os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE") else QUEUE_SPANS
        self._processor = BatchSpanProcessor(self._exporter, max_queue_size=queue_spans)
        self._resource = Resource.create(
            {
                "service.name": os.environ.get("OTEL_SERVICE_NAME", "sglang-d-router"),
                "service.version": __version__,
                "process.pid": os.getpid(),
            }
        )
        self._loop_s = asyncio.get_running_loop().time

    def record(self, span: Span) -> None:
        """Take in a span that is over."""
        # Once for each, so that a clock that is set right is right from then on.
        offset_ns = time.time_ns() - round(self._loop_s() * 1e9)
        self._processor.on_end(
            ReadableSpan(
                span.name,
                context=_context(span.context, is_remote=False),
                parent=None if span.parent is None else _context(span.parent, is_remote=span.kind is Kind.SERVER),
                resource=self._resource,
                attributes=span.attributes,
                kind=_KINDS[span.kind],
                status=_UNSET if span.error is None else Status(StatusCode.ERROR, span.error),
                start_time=offset_ns + round(span.began_s * 1e9),
                end_time=offset_ns + round(max(span.ended_s, span.began_s) * 1e9),
                instrumentation_scope=_SCOPE,
            )
        )

    async def aclose(self) -> None:
        """Send what waits, within a few seconds, and end the thread."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def end() -> None:
            self._processor.shutdown()  # type: ignore[no-untyped-call]
            with suppress(RuntimeError):  # the loop has ended before
                loop.call_soon_threadsafe(ended.set)

        # No executor's thread, for the process would wait for that one whatever it waits for.
        threading.Thread(target=end, name="traces-end", daemon=True).start()
        if not await _is_set(ended, CLOSE_S):
            # It sends no more then. What it is sending ends within TIMEOUT_S, and the process need not wait for that.
            self._exporter.close()
            await _is_set(ended, LEAVE_S)


async def _is_set(event: asyncio.Event, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            return await event.wait()
    except TimeoutError:
        return False


def _context(place: TraceContext, *, is_remote: bool) -> SpanContext:
    state = TraceState.from_header([place.state]) if place.state else None
    return SpanContext(place.trace_id, place.span_id, is_remote, _FLAGS, state)


class _Telling(SpanExporter):
    """Says once that spans are lost, and once that they are no longer."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._ear = _Ear()
        self._lost = 0
        self._is_closed = False

    @override
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._ear.heard = ""
        with self._ear.at(logging.getLogger("opentelemetry.exporter")):
            result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            if not self._lost and not self._is_closed:
                _log.warning("traces_not_exported", why=self._ear.heard or "the collector did not take them")
            self._lost += len(spans)
        elif self._lost:
            _log.info("traces_exported_again", lost_spans=self._lost)
            self._lost = 0
        return result

    def close(self) -> None:
        """Break off what is under way."""
        self._is_closed = True
        self._exporter.shutdown()

    @override
    def shutdown(self) -> None:
        if not self._is_closed:
            self.close()


class _Ear(logging.Handler):
    """Hears why a batch is lost: the exporter says it to nobody but its log, and with each try again."""

    heard = ""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.heard = self.heard or record.getMessage()

    @contextmanager
    def at(self, logger: logging.Logger) -> Iterator[None]:
        """Hear what `logger` says, and be the only one who does."""
        before = logger.level, logger.propagate
        logger.addHandler(self)
        logger.setLevel(logging.WARNING)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(self)
            logger.setLevel(before[0])
            logger.propagate = before[1]
