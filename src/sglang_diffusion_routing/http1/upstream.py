"""A connection to a worker: one request at a time, its reply handed on as spans."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Protocol, cast

import httptools

from sglang_diffusion_routing.core.worker import WorkerId
from sglang_diffusion_routing.errors import BadRequest
from sglang_diffusion_routing.http1.chunks import ChunkedBody
from sglang_diffusion_routing.http1.downstream import JOIN_BYTES
from sglang_diffusion_routing.http1.partial import HeadInProgress
from sglang_diffusion_routing.http1.reply_head import ReplyHead, parse_reply_head


class ReplySink(Protocol):
    """Who sent the request on this connection. No call comes after the one that ends the reply."""

    __slots__ = ()

    def reply_informed(self, head: ReplyHead) -> None:
        """An interim 1xx reply."""

    def reply_began(self, head: ReplyHead, span: bytes, done: bool) -> None:
        """The final head with the first bytes of the body, as they came."""

    def reply_went_on(self, span: bytes, done: bool) -> None:
        """More bytes of the body, as they came."""

    def reply_broken(self, why: str) -> None:
        """The reply is not valid HTTP; the connection is closed already."""

    def upstream_ended(self) -> None:
        """The worker sent its last byte on a tunnel; it may still read."""

    def upstream_lost(self, error: Exception | None) -> None:
        """The connection is gone before the reply was whole."""

    def upstream_full(self) -> None:
        """The worker reads too slowly: send no more for now."""

    def upstream_writable(self) -> None:
        """It has caught up."""


class ConnectionPool(Protocol):
    """Who counts the connections."""

    def lost(self, connection: UpstreamConnection) -> None: ...


class _Mode(Enum):
    HEAD = 0
    LENGTH = 1
    CHUNKED = 2
    UNTIL_CLOSE = 3
    TUNNEL = 4


_HEAD, _LENGTH, _CHUNKED, _UNTIL_CLOSE, _TUNNEL = _Mode


class UpstreamConnection(asyncio.Protocol):
    """One TCP (or TLS, or Unix) connection to one worker.

    reusable: the last reply left it in a state for another request.
    reused: it has served a request before, so its worker may have closed it unseen.
    idle_since_s: when it was given back, loop time.
    made: it has been connected, at the instant `made_s`, loop time. counted: it is among the open ones of its pool.
    """

    __slots__ = (
        "_chunks",
        "_finished",
        "_full",
        "_max_head_bytes",
        "_mode",
        "_partial",
        "_paused",
        "_pool",
        "_remaining",
        "_room",
        "_to_head",
        "_unsent_bytes",
        "_unsent_since_s",
        "bytes_received",
        "counted",
        "decode_chunks",
        "idle_since_s",
        "made",
        "made_s",
        "reusable",
        "reused",
        "sink",
        "transport",
        "worker_id",
    )

    def __init__(self, worker_id: WorkerId, pool: ConnectionPool, max_head_bytes: int) -> None:
        self.worker_id = worker_id
        self.sink: ReplySink | None = None
        self.reusable = False
        self.reused = False
        self.idle_since_s = 0.0
        self.bytes_received = 0
        self.decode_chunks = False
        self.made = False
        self.made_s = 0.0
        self.counted = True
        self._paused = False
        self._pool = pool
        self._max_head_bytes = max_head_bytes
        self._mode = _HEAD
        self._partial: HeadInProgress | None = None
        self._remaining = 0
        self._chunks: ChunkedBody | None = None
        self._to_head = False
        self._finished = False
        self._full = False
        self._room: asyncio.Future[None] | None = None
        self._unsent_bytes = -1
        self._unsent_since_s = 0.0

    def send(self, sink: ReplySink, spans: list[bytes], *, to_head: bool) -> None:
        """Begin a request: its head and what is there of its body. to_head: the method is HEAD."""
        self.sink = sink
        self.reusable = False
        self.bytes_received = 0
        self._to_head = to_head
        self._mode = _HEAD
        if len(spans) < 3 and len(spans[-1]) <= JOIN_BYTES:
            self.transport.write(b"".join(spans))
        else:
            self.transport.writelines(spans)

    def write(self, span: bytes) -> None:
        """Send more of the request."""
        if not self.transport.is_closing():
            self.transport.write(span)

    async def drained(self) -> None:
        """Return when the worker has caught up with what was written, or whoever sends has let go of the connection."""
        if self._full and self.sink is not None:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def _make_room(self) -> None:
        room = self._room
        self._room = None
        if room is not None and not room.done():
            room.set_result(None)

    def pause(self) -> None:
        """Read no more for now."""
        if not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()

    def detach(self) -> None:
        """Forget the sink; the connection is free or about to be closed."""
        self.sink = None
        self._chunks = None
        self._partial = None
        if self._room is not None:
            self._make_room()

    def become_tunnel(self) -> None:
        """Hand on raw bytes from now on."""
        self._mode = _TUNNEL

    def close(self) -> None:
        """Close at once; nothing more is told to the sink."""
        self.detach()
        self.transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports implement asyncio.Transport without deriving from it.
        self.transport = cast("asyncio.Transport", transport)
        self.made = True
        self.made_s = asyncio.get_running_loop().time()

    def data_received(self, data: bytes) -> None:
        sink = self.sink
        if sink is None:
            # Nobody asked: a reply out of turn would be taken for the next request's.
            self.transport.abort()
            return
        self.bytes_received += len(data)
        mode = self._mode
        if mode is _HEAD:
            self._read_head(sink, data)
        elif mode is _LENGTH:
            self._read_sized(sink, data)
        elif mode is _CHUNKED:
            self._read_chunked(sink, data)
        else:
            sink.reply_went_on(data, False)

    def _read_sized(self, sink: ReplySink, data: bytes) -> None:
        surplus = len(data) - self._remaining
        if surplus < 0:
            self._remaining = -surplus
            sink.reply_went_on(data, False)
        elif surplus == 0:
            sink.reply_went_on(data, True)
        else:
            self.reusable = False
            sink.reply_went_on(data[:-surplus], True)

    def _read_chunked(self, sink: ReplySink, data: bytes) -> None:
        chunks = self._chunks
        assert chunks is not None
        try:
            span, rest = self._feed(chunks, data)
        except BadRequest as error:
            self._break(sink, error.message)
            return
        if rest:
            self.reusable = False
        sink.reply_went_on(span, chunks.done)

    def _feed(self, chunks: ChunkedBody, data: bytes) -> tuple[bytes, bytes]:
        span, rest = chunks.feed(data)
        if chunks.payload is not None:
            span = b"".join(chunks.payload)
            chunks.payload.clear()
        return span, rest

    def _read_head(self, sink: ReplySink, data: bytes) -> None:
        partial = self._partial
        if partial is not None:
            data = partial.data + data
        while True:
            end = data.find(b"\r\n\r\n") + 4
            if end == 3:
                self._await_rest(sink, data)
                return
            if end > self._max_head_bytes:
                self._break(sink, "its head is too large")
                return
            try:
                head = parse_reply_head(data[:end], to_head=self._to_head)
            except BadRequest as error:
                self._break(sink, error.message)
                return
            self._partial = None
            if head.status >= 200 or head.status == 101:
                break
            sink.reply_informed(head)
            data = data[end:]
            if not data or self.sink is None:
                return
        self._begin_body(sink, head, data[end:])

    def _await_rest(self, sink: ReplySink, data: bytes) -> None:
        if len(data) > self._max_head_bytes:
            self._break(sink, "its head is too large")
            return
        if self._partial is None:
            self._partial = HeadInProgress(data, of_request=False)
        self._partial.data = data
        try:
            self._partial.check()
        except httptools.HttpParserError as error:
            self._break(sink, str(error))

    def _begin_body(self, sink: ReplySink, head: ReplyHead, rest: bytes) -> None:
        # A worker closes without saying so after a 5xx (SGLang 0.5.23 on uvicorn with h11).
        self.reusable = head.keep_alive and head.status < 500
        status = head.status
        if status == 101:
            self._mode = _TUNNEL
            sink.reply_began(head, rest, False)
        elif self._to_head or status in {204, 304} or head.content_length == 0:
            self._end_at_once(sink, head, rest)
        elif head.content_length is not None:
            self._begin_sized(sink, head, rest)
        elif head.chunked:
            self._begin_chunked(sink, head, rest)
        else:
            self._mode = _UNTIL_CLOSE
            sink.reply_began(head, rest, False)

    def _end_at_once(self, sink: ReplySink, head: ReplyHead, rest: bytes) -> None:
        if rest or (head.status == 204 and (head.chunked or head.content_length)):
            # A body that must not be there may yet come (RFC 9112 §6.3, rule 1).
            self.reusable = False
        sink.reply_began(head, b"", True)

    def _begin_sized(self, sink: ReplySink, head: ReplyHead, rest: bytes) -> None:
        length = head.content_length
        assert length is not None
        surplus = len(rest) - length
        if surplus < 0:
            self._mode = _LENGTH
            self._remaining = -surplus
        elif surplus > 0:
            self.reusable = False
            rest = rest[:length]
        sink.reply_began(head, rest, surplus >= 0)

    def _begin_chunked(self, sink: ReplySink, head: ReplyHead, rest: bytes) -> None:
        self._mode = _CHUNKED
        chunks = self._chunks = ChunkedBody([] if self.decode_chunks else None)
        try:
            span, surplus = self._feed(chunks, rest)
        except BadRequest as error:
            self._break(sink, error.message)
            return
        if surplus:
            self.reusable = False
        sink.reply_began(head, span, chunks.done)

    def _break(self, sink: ReplySink, why: str) -> None:
        self.close()
        sink.reply_broken(why)

    def eof_received(self) -> bool:
        """Keep a tunnel half open, which TLS cannot be; let anything else close."""
        self._finished = True
        if self.sink is not None and self._mode is _TUNNEL:
            self.sink.upstream_ended()
            return self.transport.can_write_eof()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        sink = self.sink
        self.detach()
        self._pool.lost(self)
        if sink is None:
            return
        if self._mode is _UNTIL_CLOSE and exc is None and self._finished:
            # Over TLS only a closure alert is an end (RFC 9112 §9.8): anybody on the way can end the TCP connection.
            self.reusable = False
            sink.reply_went_on(b"", True)
        else:
            sink.upstream_lost(exc)

    def is_stalled(self, now_s: float, stall_s: float) -> bool:
        """Tell whether the worker has taken nothing of what waits for it for `stall_s`; to be asked once a second."""
        if not self._full:
            return False
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent_bytes:
            self._unsent_bytes = unsent
            self._unsent_since_s = now_s
        return now_s - self._unsent_since_s > stall_s

    def pause_writing(self) -> None:
        self._full = True
        self._unsent_bytes = -1
        if self.sink is not None:
            self.sink.upstream_full()

    def resume_writing(self) -> None:
        self._full = False
        if self._room is not None:
            self._make_room()
        if self.sink is not None:
            self.sink.upstream_writable()
