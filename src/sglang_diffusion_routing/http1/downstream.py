"""The server side of a client's connection: requests in turn, their bodies as spans."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import struct
from typing import cast

import httptools

from sglang_diffusion_routing.errors import (
    BadRequest,
    BodyTooLarge,
    HeadTooLarge,
    RouterError,
    UriTooLong,
)
from sglang_diffusion_routing.http1.chunks import ChunkedBody
from sglang_diffusion_routing.http1.conversation import Conversation, Server
from sglang_diffusion_routing.http1.deadlines import Deadlines, State
from sglang_diffusion_routing.http1.partial import HeadInProgress
from sglang_diffusion_routing.http1.replies import error_reply
from sglang_diffusion_routing.http1.request_head import RequestHead, parse_request_head, request_error

JOIN_BYTES = 16384
"""Up to here one `write` of joined bytes costs the kernel less than a `writev` of two (2 of 14 microseconds)."""
PIPELINE_BYTES = 65536
"""Bytes of later requests that are read ahead while one is under way."""

_RESET = struct.pack("ii", 1, 0)
_EMPTY_LINES = re.compile(rb"(?:\r\n)*+")
_HEAD, _BODY, _REPLY, _TUNNEL, _LINGER = State


class DownstreamConnection(Deadlines):
    """One client's TCP connection.

    trusted: the peer is a proxy whose X-Forwarded-* count. forward_lines: those header lines, made once.
    secure: it speaks TLS.
    """

    secure = False

    __slots__ = (
        "_half_closed",
        "_pending",
        "forward_lines",
        "peer",
        "trusted",
    )

    def __init__(self, server: Server) -> None:
        self._server = server
        self._state = _HEAD
        self._partial = None
        self._pending = b""
        self._body_left = 0
        self._half_closed = False
        self._awaits_continue = False
        self._chunks = None
        self._reading = True
        self._pace = None
        self._quiet_since_s = server.now_s
        self._unsent_bytes = 0
        self._unsent_since_s = 0.0
        self.conversation = None
        self.head = None
        self.peer = ("", 0)
        self.forward_lines: bytes | None = None
        self.trusted = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports implement asyncio.Transport without deriving from it.
        self.transport = cast("asyncio.Transport", transport)
        peername = transport.get_extra_info("peername")
        if isinstance(peername, tuple):
            self.peer = (str(peername[0]), int(peername[1]))
        self._server.joined(self)

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state is _HEAD:
            self._read_head(data)
        elif state is _BODY:
            self._quiet_since_s = self._server.now_s
            self._awaits_continue = False
            self._read_body(data)
        elif state is _REPLY:
            self._pending += data
            if len(self._pending) > PIPELINE_BYTES:
                self.pause_body()
        elif state is _TUNNEL and self.conversation is not None:
            self.conversation.client_tunnel(data)

    def eof_received(self) -> bool:
        conversation = self.conversation
        if conversation is None:
            return False
        if self._state is _TUNNEL:
            conversation.client_tunnel_ended()
            return True
        # A client that closes and one that only shuts down its sending side look alike; nearly all are the
        # former, and a generation for nobody costs a GPU.
        self._half_closed = conversation.survives_half_close and self._state is _REPLY
        return self._half_closed

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.left(self)
        conversation = self.conversation
        self.conversation = None
        if conversation is not None:
            conversation.client_gone()

    def pause_writing(self) -> None:
        self._unsent_bytes = self.transport.get_write_buffer_size()
        self._unsent_since_s = self._server.now_s
        if self.conversation is not None:
            self.conversation.client_full()

    def resume_writing(self) -> None:
        self._unsent_bytes = 0
        if self.conversation is not None:
            self.conversation.client_writable()

    # reading

    def _read_head(self, data: bytes) -> None:
        partial = self._partial
        if partial is not None:
            data = partial.data + data
        if data[:2] == b"\r\n":
            # RFC 9112 §2.2: empty lines before the request line are forgiven.
            data = data[cast("re.Match[bytes]", _EMPTY_LINES.match(data)).end() :]
        end = data.find(b"\r\n\r\n") + 4
        limits = self._server.limits
        if end == 3:
            self._await_rest(data)
            return
        self._partial = None
        if end > limits.max_head_bytes:
            self._refuse_size(data)
            return
        try:
            head = parse_request_head(data[:end] if end < len(data) else data, limits.max_uri_bytes)
        except BadRequest as error:
            self.refuse(error, to_head=data[:5] == b"HEAD ")
            return
        self._begin(head, data[end:])

    def _await_rest(self, data: bytes) -> None:
        if self._partial is None:
            if not data:
                return
            self._partial = HeadInProgress(data, of_request=True)
            self._quiet_since_s = self._server.now_s
        self._partial.data = data
        limits = self._server.limits
        line_end = data.find(b"\r\n")
        if len(data) > limits.max_head_bytes or (line_end < 0 and len(data) > limits.max_uri_bytes + 64):
            self._refuse_size(data)
            return
        try:
            self._partial.check()
        except httptools.HttpParserError as error:
            self.refuse(request_error(error, data))

    def _refuse_size(self, data: bytes) -> None:
        limits = self._server.limits
        line_end = data.find(b"\r\n")
        if line_end < 0 or line_end > limits.max_uri_bytes + 64:
            limit = limits.max_uri_bytes
            self.refuse(UriTooLong(f"the request target is longer than {limit} bytes", limit_bytes=limit))
        else:
            limit = limits.max_head_bytes
            self.refuse(HeadTooLarge(f"the request's head is longer than {limit} bytes", limit_bytes=limit))

    def _begin(self, head: RequestHead, rest: bytes) -> None:
        self.head = head
        self._quiet_since_s = self._server.now_s
        self._chunks = None
        span = b""
        if head.content_length:
            span = rest[: head.content_length]
            rest = rest[head.content_length :]
            self._body_left = head.content_length - len(span)
            done = not self._body_left
        elif head.chunked:
            self._chunks = ChunkedBody()
            try:
                span, rest = self._chunks.feed(rest)
            except BadRequest as error:
                self.refuse(error)
                return
            done = self._chunks.done
        else:
            done = True
        self._state = _REPLY if done else _BODY
        self._awaits_continue = head.expects_continue and not span
        self._pending = rest
        try:
            conversation = self._server.converse(self, head)
        except RouterError as error:
            self.refuse(error)
            return
        self.conversation = conversation
        conversation.client_body(span, done)

    def _read_body(self, data: bytes) -> None:
        conversation = self.conversation
        assert conversation is not None
        chunks = self._chunks
        if chunks is None:
            left = self._body_left - len(data)
            if left > 0:
                self._body_left = left
                conversation.client_body(data, False)
                return
            self._body_left = 0
            self._state = _REPLY
            if left < 0:
                self._pending = data[left:]
                data = data[:left]
            conversation.client_body(data, True)
            return
        try:
            span, self._pending = chunks.feed(data)
        except RouterError as error:
            self._break_off(conversation, error)
            return
        if chunks.done:
            self._state = _REPLY
        conversation.client_body(span, chunks.done)

    def _break_off(self, conversation: Conversation, error: RouterError) -> None:
        """End a conversation whose request's body went wrong; a reply that has begun cannot become an error."""
        reply_begun = conversation.reply_begun
        self.conversation = None
        conversation.client_gone()
        if reply_begun:
            self.abort()
        else:
            self.refuse(error)

    def bound_body(self, limit_bytes: int) -> None:
        """Take no longer body with the request that has just begun; raise `BodyTooLarge` when it will be longer."""
        head = self.head
        if head is not None and head.content_length is not None and head.content_length > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        if self._chunks is not None:
            self._chunks.bound(limit_bytes)

    def pause_body(self) -> None:
        """Read no more from the client for now."""
        if self._reading and not self.transport.is_closing():
            self._reading = False
            self.transport.pause_reading()

    def resume_body(self) -> None:
        """Read from the client again."""
        if not self._reading and not self.transport.is_closing():
            self._reading = True
            self._quiet_since_s = self._server.now_s
            self.transport.resume_reading()

    def continued(self) -> None:
        """The client has been told to send the body that it held back."""
        self._awaits_continue = False
        self._quiet_since_s = self._server.now_s

    # writing

    def write(self, span: bytes) -> None:
        """Send bytes of a reply."""
        if not self.transport.is_closing():
            self.transport.write(span)

    def write_both(self, head: bytes, span: bytes) -> None:
        """Send a reply's head and its first bytes; more than a little is not copied."""
        if self.transport.is_closing():
            return
        if len(span) <= JOIN_BYTES:
            self.transport.write(head + span)
        else:
            self.transport.writelines((head, span))

    def must_close(self) -> bool:
        """Tell whether this reply is the connection's last, so that it has to say so."""
        head = self.head
        return head is None or not head.keep_alive or self._state is not _REPLY or self._server.closing

    @property
    def is_full(self) -> bool:
        """Whether the client is behind with reading."""
        return self._unsent_bytes > 0

    def reply_done(self, *, close: bool) -> None:
        """The reply is whole: take the next request, or close."""
        self.conversation = None
        if close or (self._half_closed and not self._pending) or self._server.closing:
            self._linger()
            return
        self.head = None
        self._quiet_since_s = self._server.now_s
        if self._pending:
            # Not at once: a thousand pipelined requests would nest a thousand calls deep.
            asyncio.get_running_loop().call_soon(self._next)
        else:
            self._state = _HEAD
            if not self._reading:
                self.resume_body()

    def _next(self) -> None:
        if self._state is not _REPLY or self.transport.is_closing():
            return
        self._state = _HEAD
        data, self._pending = self._pending, b""
        self.resume_body()
        self._read_head(data)

    def refuse(self, error: RouterError, *, request_id: bytes = b"", to_head: bool = False) -> None:
        """Answer with an error of the router; the connection goes on only where its framing is certain."""
        head = self.head
        if not request_id:
            # Nobody has dealt with it yet, or it cannot even be read.
            request_id = (None if head is None else head.request_id) or os.urandom(16).hex().encode()
        self._server.refused(error, self, request_id)
        close = isinstance(error, BadRequest) or self.must_close()
        if head is not None:
            to_head = head.method == b"HEAD"
        self.write(error_reply(error, request_id=request_id, close=close, to_head=to_head))
        self.reply_done(close=close)

    def _linger(self) -> None:
        unread = self._state in {_BODY, _HEAD} or bool(self._pending)
        self._state = _LINGER
        self._pending = b""
        self._partial = None
        self._quiet_since_s = self._server.now_s
        transport = self.transport
        if transport.is_closing():
            return
        if not unread:
            transport.close()
            return
        if transport.can_write_eof():
            transport.write_eof()
        self.resume_body()

    def abort(self) -> None:
        """End the connection so that the client cannot take what it has for a whole reply."""
        self.conversation = None
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            # A reset: without it a body that ends with the connection (HTTP/1.0) would look whole.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def become_tunnel(self) -> bytes:
        """Pass raw bytes from now on; gives those that came before the worker agreed."""
        self._state = _TUNNEL
        early, self._pending = self._pending, b""
        self.resume_body()
        return early

    def close_if_idle(self) -> None:
        """Close now if no request is under way."""
        if self.conversation is None:
            self.transport.close()
