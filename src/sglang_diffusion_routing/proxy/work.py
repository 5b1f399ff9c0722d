"""One piece of work, whole: what its worker gets and what comes back, until its end."""

from __future__ import annotations

import asyncio

from sglang_diffusion_routing.core.retry import Failure
from sglang_diffusion_routing.core.work import Lease, Result
from sglang_diffusion_routing.core.worker import WorkerId
from sglang_diffusion_routing.http1.chunks import decoded
from sglang_diffusion_routing.http1.downstream import DownstreamConnection
from sglang_diffusion_routing.http1.phase import Phase
from sglang_diffusion_routing.http1.replay import SpooledBody
from sglang_diffusion_routing.http1.reply_head import ReplyHead
from sglang_diffusion_routing.http1.request_head import RequestHead
from sglang_diffusion_routing.http1.tunnel import Tunnel
from sglang_diffusion_routing.http1.turns import Held
from sglang_diffusion_routing.proxy.heads import (
    request_id_line,
    version_field,
    with_relative_locations,
    worker_line,
)
from sglang_diffusion_routing.proxy.peek import json_string
from sglang_diffusion_routing.proxy.racing import Racing
from sglang_diffusion_routing.proxy.routes import Route
from sglang_diffusion_routing.proxy.shared import Shared
from sglang_diffusion_routing.proxy.verdict import HOLD_BYTES, is_from_a_stranger, is_telling, result_of

JOB_REPLY_BYTES = 65536
"""A job-creating reply is read whole up to this size to learn the job's id; real ones have about 540 bytes."""
ID_LOOK_BYTES = 4096
"""An image reply's `id` is its first member, before data of megabytes."""
TUNNEL_DRAIN_S = 10.0
"""How long a tunnel may go on after its worker has begun to drain."""
_OK = Result.OK
_RETRIED_REPLIES = frozenset({Result.ASLEEP, Result.SCHEDULER_DIED})
_NOBODY: frozenset[WorkerId] = frozenset()


class Work(Racing):
    """A request that needs a worker's time.

    _arrived_s: instant at which its head had come. _head_s: at which its reply's head was passed on, 0 before.
    """

    __slots__ = ("_arrived_s", "_head_s", "_looked", "_status", "_trace_id")

    def __init__(self, shared: Shared, downstream: DownstreamConnection, head: RequestHead, route: Route) -> None:
        # Here, and in `reply_began`: super() makes an object, which costs as much as the call.
        Racing.__init__(self, downstream, head, shared.upstreams, replay_max_bytes=shared.replay_max_bytes)
        self._shared = shared
        self._route = route
        self.request_id, self._trace_id = shared.heads.ids(head)
        self._arrived_s = shared.leases.now_s()
        self._head_s = 0.0
        # The beginning of a reply in which an id is looked for.
        self._looked = b"" if route.creates == "images" else None
        self._status = 0
        self._lease = None
        self._ticket = None
        self._model = None
        self._fields = ()
        self._next_look_bytes = 0
        self._avoid = _NOBODY
        self._worker = None
        self._last_error = None
        self._last_reply = None
        self._fresh_only = False
        self._on_reused = False
        self._sent_s = 0.0
        self._queued_s = 0.0
        self._loaded = ""
        self._updates = 0
        self._timer = None
        self._is_orphan = False
        self._killed = ()
        self._failed = 0
        self._result = None
        self._tunnel = None
        self._is_retry = False
        self._beside = None
        self._seeded = None
        self._was_late = False

    def reply_began(self, head: ReplyHead, span: bytes, done: bool) -> None:
        lease, upstream = self._lease, self.upstream
        if (
            lease is not None
            and lease.worker.doubted_s >= lease.granted_s
            and upstream is not None
            and self.has_clients
            and is_from_a_stranger(lease, upstream)
        ):
            self.lease_cancelled("its process has ended")
            return
        Racing.reply_began(self, head, span, done)

    def upstream_head(self, worker_id: WorkerId) -> bytes:
        head = self.head
        target = head.target
        if self._route.rewrite is not None:
            target = self._route.rewrite if head.query is None else b"%b?%b" % (self._route.rewrite, head.query)
        return self._shared.heads.for_worker(
            self.origin, head, worker_id, target, self.request_id, self._trace_id, may_upgrade=True
        )

    def spooled(self, spans: list[bytes]) -> SpooledBody | None:
        return self._shared.spools.keep(spans, self.head.content_length, self._resume_body)

    def reply_lines(self, head: ReplyHead) -> bytes:
        worker = self._worker
        assert worker is not None
        self._status = head.status
        self._head_s = now_s = self._shared.leases.now_s()
        if head.content_length is not None and self._lease is not None and not self._route.creates_job:
            # The worker is done when a sized reply begins; its next piece does not wait for the reader of this one.
            self._lease.done_s = now_s
        if self._route.safe:
            return request_id_line(head, self.request_id)
        return b"".join(
            (
                worker_line(worker.worker_id),
                b"x-sglang-router-queue-ms: ",
                b"%d" % (self._queued_s * 1000) if self._queued_s else b"0",
                b"\r\nx-sglang-router-weight-version: ",
                # Other weights came while it was at work: nobody can say which ones made this.
                version_field(self._loaded) if worker.updates == self._updates else b"unknown",
                b"\r\n" if head.has_request_id else b"\r\nx-request-id: %b\r\n" % self.request_id,
            )
        )

    def relocated(self, head: ReplyHead) -> bytes:
        assert self._worker is not None
        return with_relative_locations(head.lines, self._worker.worker_id)

    def hold_limit_bytes(self, head: ReplyHead) -> int:
        if is_telling(head.status) or head.status in self._shared.retry_limits.statuses:
            return HOLD_BYTES
        if head.status >= 500 and self._beside is not None:
            return HOLD_BYTES
        if self._route.creates_job and head.status < 300:
            return JOB_REPLY_BYTES
        return 0

    def on_held(self, head: ReplyHead, body: bytes) -> Held:
        if head.status < 300:
            # For an HTTP/1.0 client the chunks are decoded already.
            return self._hand_over_job(decoded(body) if head.chunked and not self.head.http_10 else body)
        self._result = result_of(head.status, body)
        if not self.has_clients or not (self.replayable and self.body_done):
            return Held.SEND
        ran = self._result not in _RETRIED_REPLIES
        if self._beside is not None:
            self._failed += ran
            if ran:
                self._last_reply = head, body
            self._fall_back(self._result, head.status)
            return Held.SWALLOW
        if ran and head.status not in self._shared.retry_limits.statuses:
            return Held.SEND
        self._failed += ran
        if not self._may_retry(Failure.STATUS if ran else Failure.ASLEEP):
            return Held.SEND
        if ran:
            # Should no other worker come, this is the answer.
            self._last_reply = head, body
        self._try_elsewhere(self._result, head.status, None)
        return Held.SWALLOW

    def _hand_over_job(self, body: bytes) -> Held:
        """Let a new job keep the lease, and the client know of the job when its owner cannot be forgotten any more."""
        kind = self._route.creates
        lease = self._lease
        job_id = json_string(body, "id", "video_id", "job_id")
        if kind is None or lease is None or not job_id:
            return Held.SEND
        self._lease = None
        self._cancel_timer()
        self._shared.jobs.watch(kind, job_id, lease)
        return Held.KEEP if self._shared.jobs.save_then(self.let_go) else Held.SEND

    def on_reply_body(self, span: bytes) -> None:
        if self._looked is None:
            return
        looked = (self._looked + span)[:ID_LOOK_BYTES]
        image_id = json_string(looked, "id") if self._status == 200 else None
        if image_id and self._worker is not None:
            self._shared.jobs.learn("images", image_id, self._worker)
        give_up = len(looked) == ID_LOOK_BYTES or self._status != 200
        self._looked = None if image_id or give_up else looked

    def on_upgrade(self, head: ReplyHead, early: bytes) -> None:
        downstream, upstream = self.downstream, self.upstream
        if self.head.upgrade is None or downstream is None or upstream is None:
            super().on_upgrade(head, early)
            return
        self.upstream = self.downstream = None
        self.phase = Phase.RELAYING
        upstream.become_tunnel()
        tunnel = self._tunnel = Tunnel(
            downstream,
            upstream,
            now_s=self._shared.leases.now_s(),
            on_end=self._tunnel_ended,
        )
        self._shared.tunnels.add(tunnel)
        tunnel.begin(head, self.reply_lines(head), early)

    def _tunnel_ended(self, worker_failed: bool) -> None:
        if self._tunnel is not None:
            self._shared.tunnels.discard(self._tunnel)
        self.worker_failed = worker_failed
        self._end(whole=not worker_failed, head=None)

    def worker_draining(self) -> None:
        """A tunnel would hold up its worker's drain for ever."""
        if self._tunnel is not None:
            asyncio.get_running_loop().call_later(TUNNEL_DRAIN_S, self._tunnel.restart_elsewhere)

    def on_end(self, *, whole: bool, head: ReplyHead | None) -> None:
        if self.head.idempotency_key is not None:
            self._shared.repeats.forget(self)
        if self._is_orphan:
            self._count_orphan(-1)
        if self._is_retry:
            self._shared.retry_budget.give_back()
        if self._beside is not None:
            self._part()
        shared = self._shared
        if self._ticket is not None:
            self._waited_in_vain(self._ticket)
            shared.leases.abandon(self._ticket)
            self._ticket = None
        status = self._status if head is None else head.status
        result = self._result
        if result is None:
            if whole:
                result = Result.SERVER_ERROR if status >= 500 else _OK
            else:
                result = Result.DIED if self.worker_failed else Result.ABANDONED
        lease = self._lease
        self._release(result, status)
        if result is _OK and status < 400 and lease is not None and head is not None and self._head_s:
            shared.counters.done(
                self._route.name,
                status,
                self.body_bytes,
                self.reply_bytes,
                self._arrived_s,
                self._queued_s,
                self._head_s,
                lease,
            )
        else:
            shared.counters.count(self._route.name, status, self.body_bytes, self.reply_bytes)
            self._count_times(lease if result is _OK and status < 400 else None, whole=whole)

    def _count_times(self, lease: Lease | None, *, whole: bool) -> None:
        """Count as much of its times as there is, of work that has not gone the usual way. lease: if that went well."""
        times, now_s = self._shared.counters.routes[self._route.name], self._shared.leases.now_s()
        if self._worker is not None or self._queued_s:
            times.queued.observe(self._queued_s)
        if self._head_s:
            times.head.observe(self._head_s - self._arrived_s)
        if not whole or self._tunnel is not None:
            return
        if self._head_s:
            times.relayed.observe(now_s - self._head_s)
        if lease is not None:
            times.generated.observe((now_s if lease.done_s is None else lease.done_s) - lease.granted_s)
