"""The way of a request to its worker: sent on as it comes, and as much of it kept as another worker may need."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from sglang_diffusion_routing.errors import ConnectFailed
from sglang_diffusion_routing.http1.clients import Clients
from sglang_diffusion_routing.http1.phase import Phase
from sglang_diffusion_routing.http1.pool import Upstreams
from sglang_diffusion_routing.http1.replay import SpooledBody
from sglang_diffusion_routing.http1.upstream import ReplySink, UpstreamConnection
from sglang_diffusion_routing.tasks import spawn

READ_AHEAD_BYTES = 65536
"""Bytes of a request's body that are taken in before a worker is there for them."""

# An enum's member costs 40 ns each time it is looked up by its class (Python 3.11), and a request does so 20 times.
_WAITING, _AWAITING, _RELAYING = Phase.WAITING, Phase.AWAITING, Phase.RELAYING


class Sending(Clients, ReplySink):
    """One request on its way; what comes back is up to a subclass.

    body_bytes, reply_bytes: of the request's body, and of the reply with its head, as far as they have come.
    body_done: whether the request's body is whole.
    _kept, _spooled: all that has come of it, in memory or on disk, as long as it may be sent again.
    _resending: the worker is being sent what is on disk; until that is done, what comes only follows it there.
    """

    __slots__ = (
        "_connecting",
        "_kept",
        "_replay_max_bytes",
        "_resending",
        "_spooled",
        "_upstream_full",
        "body_bytes",
        "body_done",
        "phase",
        "reply_bytes",
        "upstream",
        "upstreams",
    )

    upstream: UpstreamConnection | None
    upstreams: Upstreams
    phase: Phase
    body_bytes: int
    reply_bytes: int
    body_done: bool
    _kept: list[bytes] | None
    _spooled: SpooledBody | None
    _resending: bool
    _replay_max_bytes: int
    _upstream_full: bool
    _connecting: asyncio.Task[None] | None

    @property
    def replayable(self) -> bool:
        """Whether all that has come of the body is still here."""
        return self._kept is not None or (self._spooled is not None and self._spooled.is_whole)

    def start(self, upstream: UpstreamConnection) -> None:
        """A connection is there: send the request, as far as it has come."""
        self._connecting = None
        self.upstream = upstream
        self.phase = _AWAITING
        downstream = self.downstream
        upstream.decode_chunks = self.head.http_10
        spans = [self.upstream_head(upstream.worker_id)]
        if self._kept:
            spans += self._kept
        spooled = self._spooled
        if spooled is not None:
            self._resending = True
        elif self._kept is not None and self.body_bytes > self._replay_max_bytes:
            self._outgrow(self._kept)
        self._upstream_full = False
        upstream.send(self, spans, to_head=self.head.method == b"HEAD")
        if spooled is not None:
            if downstream is not None and not self.body_done:
                downstream.pause_body()
            spawn(self._resend(upstream, spooled), name="resend-body")
        elif not self.body_done and not self._upstream_full and downstream is not None:
            downstream.resume_body()

    def connect_failed(self, error: ConnectFailed) -> None:
        """No connection could be had."""
        self._connecting = None
        self.on_connect_failed(error)

    def _cancel_connecting(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None

    # a body that is too large for memory

    def _outgrow(self, kept: list[bytes]) -> None:
        """The body is too large to be kept in memory."""
        self._kept = None
        self._spooled = self.spooled(kept)

    async def _resend(self, upstream: UpstreamConnection, spooled: SpooledBody) -> None:
        """Send a worker what was spooled for it, and then what still comes as it comes."""
        try:
            async with aclosing(spooled.spans()) as spans:
                async for span in spans:
                    if self.upstream is not upstream:
                        return
                    upstream.write(span)
                    await upstream.drained()
        except OSError:
            # A worker that has answered already does without the rest.
            if self.upstream is upstream and not self.reply_begun:
                self.on_body_lost()
            return
        if self.upstream is upstream:
            self._resending = False
            if self.reply_begun:
                self._drop_spooled()
            self._resume_body()

    def _resume_body(self) -> None:
        """Read on from the client, unless worker or disk are behind."""
        downstream, spooled = self.downstream, self._spooled
        if downstream is None or self.body_done or self._upstream_full or self._resending:
            return
        if spooled is None or not spooled.is_behind:
            downstream.resume_body()

    def _drop_spooled(self) -> None:
        """Keep the body no longer; nobody will be sent it again."""
        spooled = self._spooled
        if spooled is not None and not self._resending:
            self._spooled = None
            spooled.close()
            self._resume_body()

    # the request, as it comes and goes

    def client_body(self, span: bytes, done: bool) -> None:
        if self.body_done:
            return
        self.body_done = done
        if span:
            self.body_bytes += len(span)
            if self._kept is not None:
                self._kept.append(span)
            elif self._spooled is not None:
                self._spooled.write(span)
                if self._spooled.is_behind and self.downstream is not None:
                    self.downstream.pause_body()
        if self.phase is _WAITING:
            if not done and self.body_bytes >= READ_AHEAD_BYTES and self.downstream is not None:
                self.downstream.pause_body()
            self.on_body()
            return
        if self._kept is not None and self.body_bytes > self._replay_max_bytes:
            self._outgrow(self._kept)
        if self.upstream is not None and span and not self._resending:
            self.upstream.write(span)

    def upstream_full(self) -> None:
        self._upstream_full = True
        if self.downstream is not None and not self.body_done:
            self.downstream.pause_body()

    def upstream_writable(self) -> None:
        self._upstream_full = False
        self._resume_body()

    def is_stalled(self, now_s: float, stall_s: float) -> bool:
        return self.upstream is not None and self.upstream.is_stalled(now_s, stall_s)

    # the reply's pace

    def client_full(self) -> None:
        self.pause_upstream()

    def client_writable(self) -> None:
        self.resume_upstream()

    def pause_upstream(self) -> None:
        """Take no more of the reply: a client is behind."""
        if self.upstream is not None and self.phase is _RELAYING:
            self.upstream.pause()

    def resume_upstream(self) -> None:
        """Go on, unless a client is still behind."""
        if self.upstream is not None and not self._is_held_up:
            self.upstream.resume()

    # letting go of the worker's connection

    @property
    def _upstream_name(self) -> str:
        return "" if self.upstream is None else str(self.upstream.worker_id)

    def _return_upstream(self) -> None:
        """Let go of the worker's connection, which has given its reply whole."""
        upstream = self.upstream
        self.upstream = None
        if upstream is not None:
            self.reply_bytes = upstream.bytes_received
            if self.body_done and not self._upstream_full and not self._resending:
                self.upstreams.give_back(upstream)
            else:
                # It answered before it had the whole request: what it would read next is the rest of this body.
                upstream.close()

    def _drop_upstream(self) -> None:
        upstream = self.upstream
        self.upstream = None
        if upstream is not None:
            self.reply_bytes = upstream.bytes_received
            upstream.close()

    def upstream_ended(self) -> None:
        """Never called: a tunnel is a conversation of its own."""
