"""Spans reach a real collector in batches, and one that is slow, refuses or is gone costs nothing but spans."""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator

import pytest
import structlog

from sglang_diffusion_routing import __version__
from sglang_diffusion_routing.app import otlp
from sglang_diffusion_routing.app.otlp import Otlp
from sglang_diffusion_routing.spans import Kind, Span, TraceContext
from support.collector import Collector, collecting

pytestmark = pytest.mark.loopback


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Send batches at once, and leave the exporter's own words to it."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    logger = logging.getLogger("opentelemetry")
    before = logger.level
    logger.setLevel("CRITICAL")
    yield
    logger.setLevel(before)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def traces_at(collector: Collector) -> str:
    return f"{collector.url}/v1/traces"


def span(name: str = "attempt", *, error: str | None = None, took_s: float = 1.5) -> Span:
    place, parent = TraceContext(0xABC, 0xDEF, state="a=1"), TraceContext(0xABC, 0x123)
    now_s = asyncio.get_running_loop().time()
    said = {"http.response.status_code": 200, "server.address": "w", "ok": True, "took": 0.5}
    return Span(name, place, parent, now_s - took_s, now_s, Kind.CLIENT, said, error)


async def told(lines: list[object], event: str) -> None:
    """Wait for a line of the log."""
    async with asyncio.timeout(20):
        while event not in repr(lines):  # noqa: ASYNC110 - another thread writes it
            await asyncio.sleep(0.005)


async def test_a_span_arrives_as_it_was_recorded(collector: Collector) -> None:
    sender = Otlp(traces_at(collector))
    sender.record(span())
    (taken,) = await asyncio.to_thread(collector.until, lambda spans: len(spans) == 1)
    assert (taken.name, taken.kind, taken.has_failed, taken.state) == ("attempt", "client", False, "a=1")
    assert (taken.trace_id, taken.span_id, taken.parent_id) == (f"{0xABC:032x}", f"{0xDEF:016x}", f"{0x123:016x}")
    assert taken.ended_s - taken.began_s == pytest.approx(1.5, abs=1e-6)
    assert abs(taken.ended_s - time.time()) < 60
    assert taken.said == {"http.response.status_code": 200, "server.address": "w", "ok": True, "took": 0.5}
    assert collector.paths == ["/v1/traces"]
    resource = collector.resources[0]
    assert (resource["service.name"], resource["service.version"]) == ("sglang-d-router", __version__)
    await sender.aclose()


async def test_what_failed_says_so(collector: Collector) -> None:
    sender = Otlp(traces_at(collector))
    sender.record(span(error="died"))
    (taken,) = await asyncio.to_thread(collector.until, lambda spans: len(spans) == 1)
    assert taken.has_failed
    await sender.aclose()


async def test_the_operator_names_the_service(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "rollouts")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    sender = Otlp(traces_at(collector))
    sender.record(span())
    await asyncio.to_thread(collector.until, lambda spans: len(spans) == 1)
    resource = collector.resources[0]
    assert (resource["service.name"], resource["deployment.environment"]) == ("rollouts", "test")
    await sender.aclose()


async def test_what_waits_is_sent_at_the_end(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    sender = Otlp(traces_at(collector))
    for _ in range(10):
        sender.record(span())
    await sender.aclose()
    assert len(collector.spans) == 10


async def test_a_collector_that_is_gone_is_told_of_once_and_so_is_its_return() -> None:
    with collecting() as first:
        port = first.port
    with structlog.testing.capture_logs() as lines:
        sender = Otlp(f"http://127.0.0.1:{port}/v1/traces")
        for _ in range(3):
            sender.record(span())
            await told(lines, "traces_not_exported")
        with collecting(port) as again:
            while not again.spans:
                sender.record(span())
                await asyncio.sleep(0.01)
            await told(lines, "traces_exported_again")
            await sender.aclose()
    said = [(line["event"], line["log_level"]) for line in lines]
    assert said == [("traces_not_exported", "warning"), ("traces_exported_again", "info")]
    assert lines[1]["lost_spans"] >= 1


async def test_a_collector_that_refuses_is_told_of_with_its_words(collector: Collector) -> None:
    collector.status = 401
    with structlog.testing.capture_logs() as lines:
        sender = Otlp(traces_at(collector))
        for batches in (1, 2, 3):
            sender.record(span())
            async with asyncio.timeout(20):
                while len(collector.paths) < batches:  # noqa: ASYNC110 - another thread's
                    await asyncio.sleep(0.005)
        await sender.aclose()
    (line,) = lines
    assert (line["event"], "401" in line["why"]) == ("traces_not_exported", True)


async def test_a_collector_that_hangs_holds_up_nothing(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what records nor the end of the router; and what waits for it does not grow."""
    monkeypatch.setattr(otlp, "CLOSE_S", 0.05)
    monkeypatch.setattr(otlp, "LEAVE_S", 0.05)
    monkeypatch.setattr(otlp, "TIMEOUT_S", 60.0)
    monkeypatch.setattr(otlp, "QUEUE_SPANS", 600)
    collector.may_answer.clear()
    sender = Otlp(traces_at(collector))
    one = span()
    for _ in range(5000):
        sender.record(one)
    assert len(sender._processor._batch_processor._queue) <= 600
    closing = asyncio.create_task(sender.aclose())
    done, _ = await asyncio.wait([closing], timeout=20)
    assert done
    collector.may_answer.set()
    while any("traces" in thread.name for thread in threading.enumerate()):  # noqa: ASYNC110 - a thread ends
        await asyncio.sleep(0.005)


async def test_no_thread_is_left(collector: Collector) -> None:
    before = set(threading.enumerate())
    sender = Otlp(traces_at(collector))
    sender.record(span())
    await sender.aclose()
    mine = [
        thread.name
        for thread in set(threading.enumerate()) - before
        if "Otel" in thread.name or "traces" in thread.name
    ]
    assert mine == []
