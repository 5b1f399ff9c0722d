"""The deadlines of a client's connection: who is silent, slow or gone is not waited for."""

from __future__ import annotations

import asyncio
import socket
from abc import abstractmethod
from enum import Enum

from sglang_diffusion_routing.errors import BodyTimeout, HeadTimeout, RouterError
from sglang_diffusion_routing.http1.chunks import ChunkedBody
from sglang_diffusion_routing.http1.conversation import Conversation, Server
from sglang_diffusion_routing.http1.partial import HeadInProgress
from sglang_diffusion_routing.http1.request_head import RequestHead

LINGER_S = 2.0
"""After a refusal the rest of the body is read and dropped for this long, or a reset would overtake the reply
(RFC 9112 §9.6; nginx's `lingering_timeout` is 5 s)."""


class State(Enum):
    """What is read from a client."""

    HEAD = 0
    """Waiting for, or reading, a request's head."""
    BODY = 1
    """A conversation is under way and its request's body is being read."""
    REPLY = 2
    """The request is whole; bytes that come belong to the next."""
    TUNNEL = 3
    LINGER = 4
    """Everything is answered; reading until the client closes."""


_TCP_FAMILIES = frozenset({socket.AF_INET, socket.AF_INET6})
_TCP_CLOSE, _TCP_CLOSE_WAIT = 7, 8
"""Linux, include/net/tcp_states.h."""
_HEAD, _BODY, _REPLY, _TUNNEL, _LINGER = State


class Deadlines(asyncio.Protocol):
    """A connection as far as its clock goes; what it reads and writes is up to a subclass.

    transport: the client's. conversation: who deals with its request; head: of that request.
    _quiet_since_s: since when nothing of what is due has come. _pace: of which body, since when and from how many bytes
    on it is looked at for its speed. _unsent_bytes, _unsent_since_s: how much the client has not taken, and since when.
    """

    __slots__ = (
        "_awaits_continue",
        "_body_left",
        "_chunks",
        "_pace",
        "_partial",
        "_quiet_since_s",
        "_reading",
        "_server",
        "_state",
        "_unsent_bytes",
        "_unsent_since_s",
        "conversation",
        "head",
        "transport",
    )

    _awaits_continue: bool
    _body_left: int
    _chunks: ChunkedBody | None
    _pace: tuple[RequestHead, float, int] | None
    _partial: HeadInProgress | None
    _quiet_since_s: float
    _reading: bool
    _server: Server
    _state: State
    _unsent_bytes: int
    _unsent_since_s: float
    conversation: Conversation | None
    head: RequestHead | None
    transport: asyncio.Transport

    @abstractmethod
    def refuse(self, error: RouterError) -> None:
        """Answer with an error of the router."""

    @abstractmethod
    def _break_off(self, conversation: Conversation, error: RouterError) -> None:
        """End a conversation whose request's body does not come."""

    def tick(self, now_s: float) -> None:
        """Enforce the deadlines; called about once a second."""
        if self._unsent_bytes or self.transport.is_closing():
            self._check_progress(now_s)
        conversation = self.conversation
        stall_s = self._server.limits.stall_timeout_s
        if not self._reading and self._has_left():
            self.transport.abort()
        elif conversation is not None and conversation.is_stalled(now_s, stall_s):
            conversation.stalled(stall_s)
        elif self._state is _HEAD:
            self._check_head(now_s - self._quiet_since_s)
        elif self._state is _BODY:
            self._check_body(now_s)
        elif self._state is _LINGER:
            self._check_linger(now_s)

    def _check_head(self, quiet_s: float) -> None:
        limits = self._server.limits
        if self._partial is None:
            if quiet_s > limits.client_idle_timeout_s:
                self.transport.close()
        elif quiet_s > limits.client_head_timeout_s:
            limit_s = limits.client_head_timeout_s
            self.refuse(HeadTimeout(f"the request's head took longer than {limit_s:g} s", timeout_s=limit_s))

    def _check_body(self, now_s: float) -> None:
        limit_s = self._server.limits.client_body_timeout_s
        conversation = self.conversation
        # It is for the client to send while we read and it does not wait for a 100.
        if not self._reading or self._awaits_continue or conversation is None:
            self._pace = None
        elif now_s - self._quiet_since_s > limit_s:
            error = BodyTimeout(f"nothing of the request's body came for {limit_s:g} s", timeout_s=limit_s)
            self._break_off(conversation, error)
        elif self._crawls(now_s):
            least = self._server.limits.client_body_min_bytes
            why = f"less than {least} bytes of the request's body came within {limit_s:g} s"
            self._break_off(conversation, BodyTimeout(why, timeout_s=limit_s))

    def _crawls(self, now_s: float) -> bool:
        """Tell whether too little of this body has come since it was last enough: a byte a minute holds a worker."""
        limits, head = self._server.limits, self.head
        assert head is not None
        chunks = self._chunks
        received = (head.content_length or 0) - self._body_left if chunks is None else chunks.received
        pace = self._pace
        if pace is None or pace[0] is not head or received - pace[2] >= limits.client_body_min_bytes:
            self._pace = (head, now_s, received)
            return False
        return now_s - pace[1] > limits.client_body_timeout_s

    def unsent_bytes(self) -> int:
        """How much of what was written is still in this process."""
        return self.transport.get_write_buffer_size()

    def _check_linger(self, now_s: float) -> None:
        if self.unsent_bytes():
            # The rest of the last reply has as long as any other; LINGER_S is for what comes after it.
            self._quiet_since_s = now_s
        elif now_s - self._quiet_since_s > LINGER_S:
            self.transport.abort()

    def _has_left(self) -> bool:
        """Tell whether the client has gone: while nothing is read, the event loop does not say so."""
        sock = self.transport.get_extra_info("socket")
        if sock is None or self.transport.is_closing() or sock.family not in _TCP_FAMILIES:
            return False
        state: int = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        conversation = self.conversation
        may_half_close = conversation is not None and conversation.survives_half_close
        return state == _TCP_CLOSE or (state == _TCP_CLOSE_WAIT and not may_half_close)

    def _check_progress(self, now_s: float) -> None:
        """Abort when the client takes nothing of what waits for it, also of the rest on a closing connection."""
        unsent = self.unsent_bytes()
        if unsent != self._unsent_bytes:
            self._unsent_bytes = unsent
            self._unsent_since_s = now_s
        elif unsent and now_s - self._unsent_since_s > self._server.limits.stall_timeout_s:
            self.transport.abort()
