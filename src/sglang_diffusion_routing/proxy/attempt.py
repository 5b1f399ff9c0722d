"""One more attempt at a piece of work, beside the work's own: a copy that races it, or what it has left behind."""

from __future__ import annotations

import asyncio
from typing import Protocol

from sglang_diffusion_routing.core.weights import Loaded
from sglang_diffusion_routing.core.work import Holder, Lease, Result
from sglang_diffusion_routing.errors import ConnectFailed
from sglang_diffusion_routing.http1.reply_head import ReplyHead
from sglang_diffusion_routing.http1.upstream import ReplySink, UpstreamConnection
from sglang_diffusion_routing.proxy.shared import Shared
from sglang_diffusion_routing.proxy.verdict import HOLD_BYTES, is_from_a_stranger, result_of
from sglang_diffusion_routing.settings import OnDisconnect


class Owner(Protocol):
    """The piece of work that has an attempt beside its own."""

    def wants_reply(self) -> bool:
        """Whether it can still use a reply that is not its own attempt's."""

    def take_over(self, attempt: Attempt, head: ReplyHead, span: bytes, done: bool) -> None:
        """The attempt has the answer: lease, connection and reply are the owner's from here on."""

    def attempt_sent(self, attempt: Attempt) -> None:
        """Its request is on its way."""

    def attempt_ended(self, attempt: Attempt, result: Result) -> None:
        """It has come to nothing; its lease is given back."""


class Attempt(ReplySink, Holder):
    """A lease and a connection to its worker. What comes of them goes to the owner, as long as that can use it.

    Whatever becomes of the owner, the engine works on: the attempt awaits the reply's end and drops it, and the worker
    stays charged until then, at most for the time that an orphan has.

    lease, loaded, updates: with what the worker had loaded when it was given the work, and its count of updates.
    upstream: None while it connects. full: the worker has not taken all of the request yet.
    is_copy: it was made to race; else the owner has set it aside. is_hedge: it counts in the budget of copies.
    """

    upstream: UpstreamConnection | None = None
    full = False
    _connecting: asyncio.Task[None] | None = None
    _timer: asyncio.TimerHandle | None = None
    _reply: ReplyHead | None = None

    def __init__(
        self, shared: Shared, owner: Owner, lease: Lease, loaded: Loaded, updates: int, *, is_copy: bool
    ) -> None:
        self.lease = lease
        self.loaded = loaded
        self.updates = updates
        self.is_copy = is_copy
        self.is_hedge = is_copy
        self._shared = shared
        self._owner: Owner | None = owner
        self._held: list[bytes] = []
        self._spans: list[bytes] = []
        lease.holder = self
        shared.attempts.add(self)

    def send(self, spans: list[bytes], *, decode_chunks: bool) -> None:
        """Send a whole request, on a fresh connection: what breaks off has then been broken by the worker."""
        worker = self.lease.worker
        self._spans = spans

        def start(upstream: UpstreamConnection) -> None:
            self._connecting = None
            self.upstream = upstream
            upstream.decode_chunks = decode_chunks
            sent, self._spans = self._spans, []
            upstream.send(self, sent, to_head=False)
            if self._owner is not None:
                self._owner.attempt_sent(self)

        self._connecting = self._shared.upstreams.open(worker.worker_id, worker.url, start, self._connect_failed)

    def go_on(self, upstream: UpstreamConnection, reply: ReplyHead | None, held: list[bytes] | None) -> None:
        """Go on with a request that is on its way, of whose reply this has come."""
        self.upstream = upstream
        upstream.sink = self
        upstream.resume()
        self._reply = reply
        self._held = held or []

    def hand_over(self) -> UpstreamConnection:
        """Give lease and connection to the owner, and be no more."""
        upstream = self.upstream
        assert upstream is not None
        self.upstream = self._owner = None
        self._leave()
        return upstream

    def let_go(self) -> None:
        """Nobody wants the reply any more."""
        self._owner = None
        settings = self._shared.settings
        if settings.on_disconnect == OnDisconnect.CANCEL:
            self.give_up()
        else:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(settings.orphan_timeout_s, self.give_up)

    def give_up(self) -> None:
        """Wait no longer for the worker."""
        self._end(Result.ABANDONED)

    def _connect_failed(self, error: ConnectFailed) -> None:
        self._connecting = None
        self._end(Result.CONNECT_FAILED)

    # Holder

    def lease_cancelled(self, reason: str) -> None:
        self._end(Result.DIED if self._connecting is None else Result.CONNECT_FAILED)

    def worker_draining(self) -> None:
        """A drain waits for the work."""

    # ReplySink

    def reply_informed(self, head: ReplyHead) -> None:
        """Nobody waits for a 100, for the request is whole."""

    def reply_began(self, head: ReplyHead, span: bytes, done: bool) -> None:
        owner, upstream = self._owner, self.upstream
        if upstream is None or head.status == 101 or is_from_a_stranger(self.lease, upstream):
            self._end(Result.DIED)
        elif owner is not None and head.status < 500 and owner.wants_reply():
            owner.take_over(self, head, span, done)
        else:
            self._reply = head
            self._drop(span, done)

    def reply_went_on(self, span: bytes, done: bool) -> None:
        self._drop(span, done)

    def _drop(self, span: bytes, done: bool) -> None:
        """Let a reply pass that nobody gets; an error is looked at for what it says of the worker."""
        head = self._reply
        assert head is not None
        is_short_error = head.status >= 500 and (head.content_length or 0) <= HOLD_BYTES
        if is_short_error and sum(map(len, self._held)) <= HOLD_BYTES:
            self._held.append(span)
        if done:
            self._give_back()
            self._end(result_of(head.status, b"".join(self._held)), head.status)
        elif head.is_sized and not is_short_error:
            # The worker knows the length: the work is done, only bytes are left, and nobody wants them.
            self._end(result_of(head.status, b""), head.status)

    def reply_broken(self, why: str) -> None:
        self.upstream = None
        self._end(Result.DIED)

    def upstream_lost(self, error: Exception | None) -> None:
        self.upstream = None
        self._end(Result.DIED)

    def upstream_ended(self) -> None:
        """Never called: nothing here becomes a tunnel."""

    def upstream_full(self) -> None:
        self.full = True

    def upstream_writable(self) -> None:
        self.full = False

    # the end

    def _give_back(self) -> None:
        upstream = self.upstream
        self.upstream = None
        if upstream is not None:
            if self.full:
                # It answered before it had the whole request: what it would read next is the rest of this body.
                upstream.close()
            else:
                self._shared.upstreams.give_back(upstream)

    def _leave(self) -> None:
        self._shared.attempts.discard(self)
        if self.is_hedge:
            self._shared.hedge_budget.give_back()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self, result: Result, status: int = 0) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        upstream, owner = self.upstream, self._owner
        self.upstream = self._owner = None
        self._leave()
        if upstream is not None:
            upstream.close()
        self.lease.holder = None
        self._shared.leases.release(self.lease, result, status)
        if owner is not None:
            owner.attempt_ended(self, result)
