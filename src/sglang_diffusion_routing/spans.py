"""Say what took how long, for whoever collects traces: spans with their instants, and the trace that goes on here.

The shapes are OpenTelemetry's and W3C's (https://www.w3.org/TR/trace-context/), without their libraries: a span is
made when it is over, from instants on the loop's clock, so that whatever it tells of does not wait for it.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

Value = str | bool | int | float
"""What an attribute may be."""

TRACE_BITS, SPAN_BITS = 128, 64
_RATIO_BITS = 2**56
"""The part of a trace's id that is random for certain, and that decides (W3C trace context, level 2)."""
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A place in a trace that is recorded. state: what others have to say of it, as it came."""

    trace_id: int
    span_id: int
    is_sampled: bool = True
    state: str = ""

    def header(self) -> bytes:
        """Write it as a `traceparent`."""
        return b"00-%032x-%016x-%02x" % (self.trace_id, self.span_id, self.is_sampled)


def read_parent(traceparent: bytes | None, state: str = "") -> TraceContext | None:
    """Read a `traceparent`; None when there is none, or none that means anything."""
    found = _TRACEPARENT.fullmatch(traceparent or b"")
    if found is None:
        return None
    version, trace_id, span_id = found[1], int(found[2], 16), int(found[3], 16)
    # Later versions may say more; this one may not.
    if version == b"ff" or (version == b"00" and found[5] is not None) or not trace_id or not span_id:
        return None
    return TraceContext(trace_id, span_id, bool(int(found[4], 16) & _SAMPLED), state)


class Kind(Enum):
    """Which end of a call a span is, if any."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"


@dataclass(slots=True)
class Span:
    """Something that took time, and is over when it is recorded. Instants are on the loop's clock.

    error: why it has failed; None when it has not.
    """

    name: str
    context: TraceContext
    parent: TraceContext | None
    began_s: float
    ended_s: float
    kind: Kind = Kind.INTERNAL
    attributes: Mapping[str, Value] = field(default_factory=dict)
    error: str | None = None


class Recorder(Protocol):
    """Takes spans that are over."""

    def record(self, span: Span) -> None:
        """Returns at once, whatever becomes of the span."""


class Open:
    """A span that is under way. attributes, error: as in `Span`, until it is over."""

    def __init__(self, context: TraceContext | None) -> None:
        self.context = context
        self.attributes: dict[str, Value] = {}
        self.error: str | None = None


current: ContextVar[TraceContext | None] = ContextVar("current_trace", default=None)
"""The place in a trace of what is being done here; None when it is not recorded."""


class Tracer:
    """Decides which traces are recorded, and gives places in them.

    Args:
        recorder: None when nothing is recorded.
        percent: of the traces that begin here; what goes on here is recorded if it was elsewhere.
    """

    def __init__(self, recorder: Recorder | None, *, percent: float = 100.0) -> None:
        self._recorder = recorder
        self._below = round(_RATIO_BITS * percent / 100)
        self._random = random.Random()

    def place(self, parent: TraceContext | None) -> TraceContext | None:
        """Give a fresh place under `parent`, or in a new trace; None when that is not recorded."""
        if self._recorder is None:
            return None
        if parent is not None:
            return self.under(parent) if parent.is_sampled else None
        trace_id = self._random.getrandbits(TRACE_BITS) or 1
        if trace_id % _RATIO_BITS >= self._below:
            return None
        return TraceContext(trace_id, self._span_id())

    def under(self, parent: TraceContext) -> TraceContext:
        """Give a fresh place in the trace of `parent`."""
        return TraceContext(parent.trace_id, self._span_id(), parent.is_sampled, parent.state)

    def unrecorded(self) -> TraceContext:
        """Give a place in a new trace of which is known that it is not recorded."""
        return TraceContext(self._random.getrandbits(TRACE_BITS) or 1, self._span_id(), is_sampled=False)

    def record(self, span: Span) -> None:
        """Hand on a span that is over."""
        if self._recorder is not None:
            self._recorder.record(span)

    @contextmanager
    def span(self, name: str, **attributes: Value) -> Iterator[Open]:
        """Record the block as a span of what is being done here; what is done in it stands below.

        Attributes are named without `sglang.router.`; one that fails has failed with its exception.
        """
        parent = current.get()
        place = self.place(parent)
        opened = Open(place)
        if place is None:
            yield opened
            return
        now_s = asyncio.get_running_loop().time
        began_s, token = now_s(), current.set(place)
        try:
            yield opened
        except BaseException as error:
            opened.error = opened.error or type(error).__name__
            raise
        finally:
            current.reset(token)
            said = {f"{PREFIX}{key}": value for key, value in {**attributes, **opened.attributes}.items()}
            self.record(Span(name, place, parent, began_s, now_s(), Kind.INTERNAL, said, opened.error))

    def _span_id(self) -> int:
        return self._random.getrandbits(SPAN_BITS) or 1


PREFIX = "sglang.router."
"""Begins the names of attributes that no convention has a name for."""
OFF = Tracer(None)
"""Records nothing."""
