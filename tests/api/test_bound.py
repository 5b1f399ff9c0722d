"""What is logged and traced while a control request is served is known to be of that request."""

from typing import Any

import pytest
import structlog
from starlette.types import Message, Receive, Scope, Send

from sglang_diffusion_routing import spans
from sglang_diffusion_routing.api.bound import Bound

pytestmark = pytest.mark.core

TRACE, PLACE = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7


async def bound_by(*headers: tuple[bytes, bytes], kind: str = "http") -> tuple[dict[str, Any], object]:
    """Give the facts that lines carry, and the place in a trace, while a request is served."""
    seen: list[tuple[dict[str, Any], object]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((structlog.contextvars.get_contextvars(), spans.current.get()))

    async def unused(message: Message | None = None) -> Message:
        raise AssertionError("nobody reads or writes")

    async def dropped(message: Message) -> None:
        raise AssertionError("nobody writes")

    spans.current.set(None)
    await Bound(app)({"type": kind, "headers": list(headers)}, unused, dropped)
    assert structlog.contextvars.get_contextvars() == {}
    return seen[0]


async def test_lines_carry_the_request_s_id_and_no_trace_that_nobody_records() -> None:
    facts, place = await bound_by((b"x-request-id", b"r-1"), (b"traceparent", b"00-%032x-%016x-00" % (TRACE, PLACE)))
    assert facts == {"request_id": "r-1"}
    assert place == spans.TraceContext(TRACE, PLACE, is_sampled=False)


async def test_lines_carry_the_trace_that_is_recorded() -> None:
    parent = b"00-%032x-%016x-01" % (TRACE, PLACE)
    facts, place = await bound_by((b"x-request-id", b"r-1"), (b"traceparent", parent), (b"tracestate", b"v=1"))
    assert facts == {"request_id": "r-1", "trace_id": f"{TRACE:032x}"}
    assert place == spans.TraceContext(TRACE, PLACE, is_sampled=True, state="v=1")


async def test_an_endless_id_is_cut() -> None:
    facts, _ = await bound_by((b"x-request-id", b"r" * 10_000))
    assert facts == {"request_id": "r" * 256}


@pytest.mark.parametrize("kind", ["http", "lifespan"])
async def test_nothing_is_bound_where_nothing_is_said(kind: str) -> None:
    assert await bound_by(kind=kind) == ({}, None)
