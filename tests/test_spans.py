"""Traces go on where they are recorded, and begin as often as is asked for."""

import asyncio

import pytest

from sglang_diffusion_routing import spans
from sglang_diffusion_routing.spans import Kind, Span, TraceContext, Tracer, read_parent

pytestmark = pytest.mark.core

TRACE, PLACE = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Kept:
    """Keeps what is recorded."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def record(self, span: Span) -> None:
        self.spans.append(span)


@pytest.fixture(autouse=True)
def _in_no_trace() -> None:
    spans.current.set(None)


def parent(*, is_sampled: bool = True) -> TraceContext:
    return TraceContext(int(TRACE, 16), int(PLACE, 16), is_sampled, "v=1")


@pytest.mark.parametrize(("flags", "is_sampled"), [("00", False), ("01", True), ("03", True), ("02", False)])
def test_a_parent_is_read_with_whether_it_is_recorded(flags: str, is_sampled: bool) -> None:
    assert read_parent(f"00-{TRACE}-{PLACE}-{flags}".encode(), "v=1") == parent(is_sampled=is_sampled)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        f"00-{TRACE}-{PLACE}",
        f"00-{TRACE}-{PLACE}-01-more",
        f"ff-{TRACE}-{PLACE}-01",
        f"00-{'0' * 32}-{PLACE}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PLACE}-01",
        f"00-{TRACE[1:]}-{PLACE}-01",
        f" 00-{TRACE}-{PLACE}-01",
        f"00-{TRACE}-{PLACE}-1",
    ],
)
def test_what_is_no_parent_is_none(header: str | None) -> None:
    assert read_parent(None if header is None else header.encode()) is None


def test_a_later_version_may_say_more() -> None:
    assert read_parent(f"01-{TRACE}-{PLACE}-01-more".encode(), "v=1") == parent()


def test_a_place_is_written_as_it_is_read() -> None:
    assert parent().header() == f"00-{TRACE}-{PLACE}-01".encode()
    assert parent(is_sampled=False).header() == f"00-{TRACE}-{PLACE}-00".encode()


def test_what_is_recorded_elsewhere_is_recorded_here_whatever_the_share() -> None:
    place = Tracer(Kept(), percent=0).place(parent())
    assert place is not None
    assert (place.trace_id, place.is_sampled, place.state) == (int(TRACE, 16), True, "v=1")
    assert place.span_id not in {0, int(PLACE, 16)}


def test_what_is_not_recorded_elsewhere_is_not_recorded_here() -> None:
    assert Tracer(Kept(), percent=100).place(parent(is_sampled=False)) is None


def test_nothing_is_recorded_where_nobody_takes_it() -> None:
    assert spans.OFF.place(None) is None
    assert spans.OFF.place(parent()) is None


@pytest.mark.parametrize(("percent", "low", "high"), [(0.0, 0, 0), (100.0, 2000, 2000), (25.0, 400, 600)])
def test_as_many_traces_begin_as_are_asked_for(percent: float, low: int, high: int) -> None:
    tracer = Tracer(Kept(), percent=percent)
    places = [tracer.place(None) for _ in range(2000)]
    assert low <= sum(place is not None for place in places) <= high


async def test_a_block_is_a_span_and_what_is_done_in_it_stands_below() -> None:
    kept = Kept()
    tracer = Tracer(kept)
    with tracer.span("refit", workers=2) as outer:
        with tracer.span("update", worker="w"):
            pass
        outer.attributes["updated"] = 2
    inner, whole = kept.spans
    assert (inner.name, inner.parent, inner.attributes) == ("update", whole.context, {"sglang.router.worker": "w"})
    assert (whole.name, whole.parent, whole.kind, whole.error) == ("refit", None, Kind.INTERNAL, None)
    assert whole.attributes == {"sglang.router.workers": 2, "sglang.router.updated": 2}
    assert whole.began_s <= inner.began_s <= inner.ended_s <= whole.ended_s
    assert spans.current.get() is None


async def test_a_block_that_fails_is_a_span_that_failed() -> None:
    kept = Kept()
    with pytest.raises(asyncio.CancelledError), Tracer(kept).span("refit"):
        raise asyncio.CancelledError
    assert [span.error for span in kept.spans] == ["CancelledError"]
    assert spans.current.get() is None


async def test_a_block_in_a_trace_that_is_not_recorded_is_nothing() -> None:
    kept = Kept()
    spans.current.set(parent(is_sampled=False))
    with Tracer(kept).span("refit") as span:
        span.attributes["updated"] = 2
    assert kept.spans == []
