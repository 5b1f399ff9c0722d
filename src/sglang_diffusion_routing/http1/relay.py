"""One request and its reply: bytes both ways with back-pressure, ended exactly once.

An `Exchange` stands between a client's connection and a worker's. It knows nothing of leases or routes: what
happens at the `Turns` of its life is up to a subclass.
"""

from __future__ import annotations

import structlog

from sglang_diffusion_routing.errors import BadUpstreamReply, RouterError, UpstreamStalled
from sglang_diffusion_routing.http1.downstream import DownstreamConnection
from sglang_diffusion_routing.http1.joined import Joined
from sglang_diffusion_routing.http1.phase import Phase
from sglang_diffusion_routing.http1.pool import Upstreams
from sglang_diffusion_routing.http1.reply_head import ReplyHead
from sglang_diffusion_routing.http1.request_head import RequestHead
from sglang_diffusion_routing.http1.sending import Sending
from sglang_diffusion_routing.http1.turns import Held

_log = structlog.get_logger(__name__)

_WAITING, _AWAITING, _HOLDING, _RELAYING, _DISCARDING, _KEEPING, _ENDED = Phase


class Exchange(Sending):
    """One request under way.

    worker_failed: the reply broke off or was not HTTP.
    replay_max_bytes: up to this much of the request's body is kept, so that it can be sent again.
    """

    __slots__ = ("_held", "_held_bytes", "_hold_limit", "_rechunk", "_reply", "_reply_close", "worker_failed")

    def __init__(
        self, downstream: DownstreamConnection, head: RequestHead, upstreams: Upstreams, *, replay_max_bytes: int
    ) -> None:
        self.request_id = b""
        self.reply_begun = False
        self.origin = downstream
        self.downstream = downstream
        self.head = head
        self._joined = ()
        self.upstream = None
        self.upstreams = upstreams
        self.phase = _WAITING
        self.body_bytes = 0
        self.reply_bytes = 0
        self.body_done = False
        self._kept = []
        self._spooled = None
        self._resending = False
        self._replay_max_bytes = replay_max_bytes
        self._upstream_full = False
        self._connecting = None
        self.worker_failed = False
        self._rechunk = False
        self._reply_close = False
        self._held: list[bytes] | None = None
        self._held_bytes = 0
        self._hold_limit = 0
        self._reply: ReplyHead | None = None

    def on_upgrade(self, head: ReplyHead, early: bytes) -> None:
        """The worker switched protocols; `early` are its first raw bytes."""
        self.fail(BadUpstreamReply(self._upstream_name, "it switched protocols unasked"))

    # who waits for the reply

    def join(self, downstream: DownstreamConnection) -> Joined | None:
        """Let another client have the reply too; None when it is too early or too late for that."""
        too_late = self.reply_begun or self.phase is _ENDED or (self.phase is _DISCARDING and self._reply is not None)
        if too_late or not self.body_done:
            return None
        was_orphan = self.upstream is not None and not self.has_clients
        joined = Joined(self, downstream)
        self._joined += (joined,)
        if self.phase is _DISCARDING:
            self.phase = _AWAITING
        if was_orphan:
            self.on_rejoined()
        return joined

    def joined_gone(self, joined: Joined) -> None:
        """One of the other clients has left."""
        self._joined = tuple(other for other in self._joined if other is not joined)
        if self.downstream is None and not self._joined and self.phase is not _ENDED:
            self._nobody_left()
        else:
            self.resume_upstream()

    def client_gone(self) -> None:
        self.downstream = None
        if not self._joined:
            self._nobody_left()
        else:
            self.resume_upstream()

    def _nobody_left(self) -> None:
        """Let the worker finish what it has been given whole; take back anything else (worker-side work goes on)."""
        if self.phase is _KEEPING:
            self._end_whole(self._reply)
        elif self.upstream is None:
            self._cancel_connecting()
            self._end(whole=False, head=None)
        elif not self.body_done or self._resending or (self.phase is _RELAYING and self._sized):
            self._drop_upstream()
            self._end(whole=False, head=None)
        else:
            self._kept = None
            self._drop_spooled()
            if self.phase is not _HOLDING:
                self.phase = _DISCARDING
            self.resume_upstream()
            self.on_orphaned()

    def give_up(self) -> None:
        """Stop waiting for the worker of a client that has left."""
        if self.phase is not _ENDED:
            self._drop_upstream()
            self._end(whole=False, head=None)

    # ReplySink: the worker's side

    def reply_informed(self, head: ReplyHead) -> None:
        """Pass 103 and the 100 that the client asked for; a stray 100 ends here (RFC 9110 §15.2)."""
        downstream = self.downstream
        if downstream is None or self.head.http_10 or self.phase is not _AWAITING:
            return
        if head.status == 100 and (not self.head.expects_continue or self.body_done):
            return
        downstream.write(b"%b%b\r\n" % (head.status_line, head.block))
        if head.status == 100:
            downstream.continued()

    def reply_began(self, head: ReplyHead, span: bytes, done: bool) -> None:
        if head.status == 101:
            self.on_upgrade(head, span)
            return
        limit = self.hold_limit_bytes(head)
        if limit and (head.content_length if head.content_length is not None else len(span)) <= limit:
            self.phase = _HOLDING
            self._reply = head
            self._hold_limit = limit
            self._hold(span, done)
        elif self.phase is _DISCARDING:
            self._discard(head, done)
        elif span or done or head.content_length is None:
            self._pass_head(head, span, done)
        else:
            # uvicorn writes head and body apart: a worker that dies in between has not begun to answer. And one system
            # call takes both to the client.
            self.phase = _HOLDING
            self._reply = head
            self._hold_limit = 0

    def reply_went_on(self, span: bytes, done: bool) -> None:
        if self.phase is _RELAYING:
            self._pass_body(span, done)
        elif self.phase is _HOLDING:
            self._hold(span, done)
        elif done:
            self._end_whole(self._reply)

    def _discard(self, head: ReplyHead, done: bool) -> None:
        self._reply = head
        if done:
            self._end_whole(head)
        elif head.is_sized:
            # The worker knows the length: the work is done, only bytes are left, and nobody wants them.
            self._drop_upstream()
            self._end(whole=True, head=head)

    def _hold(self, span: bytes, done: bool) -> None:
        head, held = self._reply, self._held
        assert head is not None
        self._held_bytes += len(span)
        if not done and self._held_bytes <= self._hold_limit:
            if held is None:
                self._held = [span] if span else []
            else:
                held.append(span)
            return
        self._held = None
        raw = b"".join((*held, span)) if held else span
        fate = self.on_held(head, raw) if done and self._hold_limit else Held.SEND
        if fate is Held.SWALLOW:
            return
        if fate is Held.KEEP and self.has_clients:
            self.phase = _KEEPING
            self._held = [raw]
            self._return_upstream()
        elif self.has_clients:
            self._pass_head(head, raw, done)
        else:
            self.phase = _DISCARDING
            self._discard(head, done)

    def let_go(self) -> None:
        """Send the reply that was kept; nothing happens when it is too late for that."""
        head, held = self._reply, self._held
        if self.phase is _KEEPING and head is not None and held is not None:
            self._held = None
            self._pass_head(head, b"".join(held), True)

    def _pass_head(self, head: ReplyHead, span: bytes, done: bool) -> None:
        self.phase = _RELAYING
        self.reply_begun = True
        self._kept = None
        if self._spooled is not None:
            self._drop_spooled()
        self._reply = head
        framing = self._framing(head) if head.chunked or head.until_close else b""
        block = self.relocated(head) if head.has_location else head.block
        start = b"".join((head.status_line, block, self.reply_lines(head), framing))
        for joined in self._joined:
            joined.begin(start)
        downstream = self.downstream
        if self._rechunk or self._joined or downstream is None:
            if downstream is not None:
                downstream.write(self._finished(start, downstream))
            self._pass_body(span, done)
            if not done and self._is_held_up:
                self.pause_upstream()
            return
        start = self._finished(start, downstream)
        if span:
            self.on_reply_body(span)
            downstream.write_both(start, span)
        else:
            downstream.write(start)
        if done:
            self._finish(head)
        elif downstream.is_full:
            self.pause_upstream()

    def _framing(self, head: ReplyHead) -> bytes:
        """Give the line that says how a body without a length ends."""
        if head.status == 204:
            return b""
        if self.head.http_10:
            self._reply_close = True
            return b""
        self._rechunk = head.until_close
        return b"Transfer-Encoding: chunked\r\n"

    def _finished(self, start: bytes, downstream: DownstreamConnection) -> bytes:
        """Add what concerns the client's connection alone, and the empty line."""
        if downstream.must_close():
            self._reply_close = True
        if self._reply_close:
            return start + b"Connection: close\r\n\r\n"
        return start + (b"Connection: keep-alive\r\n\r\n" if self.head.http_10 else b"\r\n")

    def _pass_body(self, span: bytes, done: bool) -> None:
        if span:
            self.on_reply_body(span)
            self._write(b"%x\r\n%b\r\n" % (len(span), span) if self._rechunk else span)
        if done:
            if self._rechunk:
                self._write(b"0\r\n\r\n")
            self._finish(self._reply)

    def _finish(self, head: ReplyHead | None) -> None:
        downstream, joined = self._leave_clients()
        self._end_whole(head)
        if downstream is not None:
            downstream.reply_done(close=self._reply_close)
        for other in joined:
            other.finish()

    def _end_whole(self, head: ReplyHead | None) -> None:
        self._return_upstream()
        self._end(whole=True, head=head)

    def reply_broken(self, why: str) -> None:
        name = self._upstream_name
        self.upstream = None
        self.worker_failed = True
        self._fail_or_abort(BadUpstreamReply(name, why))

    def upstream_lost(self, error: Exception | None) -> None:
        name = self._upstream_name
        self.upstream = None
        if (self.phase is _AWAITING or self.phase is _HOLDING) and self.has_clients:
            self.phase = _WAITING
            self._held = None
            self._held_bytes = 0
            self.on_died(replayable=self.replayable)
        else:
            self.worker_failed = True
            self._fail_or_abort(BadUpstreamReply(name, "its connection broke before the reply was whole"))

    def _fail_or_abort(self, error: RouterError) -> None:
        if self.phase is _RELAYING:
            downstream, joined = self._leave_clients()
            request_id = self.request_id.decode("latin-1")
            _log.warning("reply_broken_off", request_id=request_id, code=error.code, why=error.message)
            self._end(whole=False, head=None)
            if downstream is not None:
                downstream.abort()
            for other in joined:
                other.abort()
        else:
            self.fail(error)

    def stalled(self, stall_s: float) -> None:
        """The worker takes nothing of the request: give it up."""
        name = self._upstream_name
        self.worker_failed = True
        self._drop_upstream()
        self._fail_or_abort(UpstreamStalled(name, stall_s))

    # ends

    def retry(self) -> None:
        """Leave the worker's connection and wait for another; the kept body will be sent again."""
        upstream, is_resending = self.upstream, self._resending
        self.upstream = None
        self._resending = False
        self.phase = _WAITING
        self._reply = None
        self._held_bytes = 0
        if upstream is not None and is_resending:
            upstream.close()
        elif upstream is not None:
            self.upstreams.give_back(upstream)

    def answer(self, head: ReplyHead, body: bytes) -> None:
        """Give the client a whole reply that was swallowed before, and end; no worker has the request now."""
        self._pass_head(head, body, True)

    def fail(self, error: RouterError) -> None:
        """Answer the client with an error of the router and end; nothing of a reply has been sent."""
        clients = self._leave_clients()
        self._drop_upstream()
        self._end(whole=False, head=None)
        self._refuse(clients, error)

    def fail_and_await(self, error: RouterError) -> None:
        """Answer the client with an error, but go on awaiting the reply, for the worker is busy until then."""
        clients = self._leave_clients()
        self._nobody_left()
        self._refuse(clients, error)

    @property
    def _sized(self) -> bool:
        return self._reply is not None and self._reply.is_sized

    def _end(self, *, whole: bool, head: ReplyHead | None) -> None:
        if self.phase is _ENDED:
            return
        self.phase = _ENDED
        self._kept = None
        if self._spooled is not None:
            self._resending = False
            self._drop_spooled()
        self._held = None
        self.on_end(whole=whole, head=head)
