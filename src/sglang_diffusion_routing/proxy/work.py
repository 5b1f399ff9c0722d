"""One piece of work: lease, relay, maybe another worker, release."""

from __future__ import annotations

import asyncio

from sglang_diffusion_routing.core.cost import cost_of
from sglang_diffusion_routing.core.retry import Failure, may_retry
from sglang_diffusion_routing.core.work import Lease, Result, Ticket, WorkSpec
from sglang_diffusion_routing.core.worker import Worker, WorkerId
from sglang_diffusion_routing.errors import (
    ConnectFailed,
    RouterError,
    UpstreamDied,
    UpstreamTimeout,
)
from sglang_diffusion_routing.http1.chunks import decoded
from sglang_diffusion_routing.http1.downstream import DownstreamConnection
from sglang_diffusion_routing.http1.relay import READ_AHEAD_BYTES, Exchange, Phase
from sglang_diffusion_routing.http1.reply_head import ReplyHead
from sglang_diffusion_routing.http1.request_head import RequestHead
from sglang_diffusion_routing.http1.tunnel import Tunnel
from sglang_diffusion_routing.http1.turns import Held
from sglang_diffusion_routing.http1.upstream import UpstreamConnection
from sglang_diffusion_routing.proxy.heads import authority, version_field, with_relative_locations, worker_line
from sglang_diffusion_routing.proxy.peek import json_string, named_model
from sglang_diffusion_routing.proxy.routes import Route
from sglang_diffusion_routing.proxy.shape import LOOK_BYTES, Fields, fields_of
from sglang_diffusion_routing.proxy.shared import MAX_SPECS, Shared
from sglang_diffusion_routing.proxy.terms import (
    WORKER,
    group,
    min_version,
    priority,
    queue_timeout_s,
    stated_cost,
    worker,
)
from sglang_diffusion_routing.proxy.verdict import HOLD_BYTES, is_telling, result_of
from sglang_diffusion_routing.settings import OnDisconnect

JOB_REPLY_BYTES = 65536
"""A job-creating reply is read whole up to this size to learn the job's id; real ones have about 540 bytes."""
ID_LOOK_BYTES = 4096
"""An image reply's `id` is its first member, before data of megabytes."""
STALE_S = 1.0
"""A reused connection that breaks within this time of the request may have been closed by an idle worker before it."""
DOUBT_S = 0.05
"""A connection made so shortly before its worker was found to have ended may have been accepted by the next one."""
TUNNEL_DRAIN_S = 10.0
"""How long a tunnel may go on after its worker has begun to drain."""
_RETRIED_REPLIES = frozenset({Result.ASLEEP, Result.SCHEDULER_DIED})


class Work(Exchange):
    """A request that needs a worker's time."""

    _lease: Lease | None = None
    _ticket: Ticket | None = None
    _worker: Worker | None = None
    _model: str | None = None
    _fields: Fields | None = ()
    _next_look_bytes = 0
    _avoid: frozenset[WorkerId] = frozenset()
    _killed: tuple[str, ...] = ()
    _failed = 0
    _last_error: RouterError | None = None
    _last_reply: tuple[ReplyHead, bytes] | None = None
    _fresh_only = False
    _on_reused = False
    _sent_s = 0.0
    _queued_s = 0.0
    _weight_version = b""
    _updates = 0
    _status = 0
    _result: Result | None = None
    _looked: bytes | None = None
    _timer: asyncio.TimerHandle | None = None
    _tunnel: Tunnel | None = None
    _is_orphan = False
    _is_retry = False

    def __init__(self, shared: Shared, downstream: DownstreamConnection, head: RequestHead, route: Route) -> None:
        super().__init__(downstream, head, shared.upstreams, replay_max_bytes=shared.settings.replay_max_bytes)
        self._shared = shared
        self._route = route
        self.request_id = shared.heads.request_id(head)
        self._trace_id = shared.heads.trace_id(head, self.request_id)
        if route.creates == "images":
            self._looked = b""

    # towards a lease

    def on_body(self) -> None:
        if self._ticket is not None or self._lease is not None:
            return
        if self.head.has_body:
            if self._route.usual is not None:
                if not self._seen(LOOK_BYTES):
                    return
                body = self._body()
                # No form begins with a brace, and finding a field costs as much as reading a small body.
                content_type = None if body.startswith(b"{") else self.head.field(b"content-type")
                self._fields = fields_of(body, content_type, whole=self.body_done)
            # Whoever names the worker has chosen its model with it.
            if self._shared.leases.scheduler.model_matters and WORKER not in self.head.router_fields:
                # Each look reads all there is: look when that has doubled, or a trickle would cost its square.
                if not self._seen(READ_AHEAD_BYTES) and self.body_bytes < self._next_look_bytes:
                    return
                self._next_look_bytes = 2 * self.body_bytes
                self._model = named_model(self._body(), self.head.field(b"content-type") or b"")
                if self._model is None and not self._seen(READ_AHEAD_BYTES):
                    return
        self._ask()

    def _seen(self, enough_bytes: int) -> bool:
        # With an expectation the body comes only after a worker has said 100.
        return self.body_done or self.body_bytes >= enough_bytes or self.head.expects_continue

    def _body(self) -> bytes:
        """Give what there is of the body."""
        spans = self.kept_spans
        raw = spans[0] if len(spans) == 1 else b"".join(spans)
        return decoded(raw) if self.head.chunked else raw

    def _ask(self) -> None:
        leases = self._shared.leases
        try:
            got = leases.acquire(self._spec(), self)
        except RouterError as error:
            self.refused(error)
            return
        if isinstance(got, Lease):
            self._go(got)
        else:
            self._ticket = got

    def _spec(self) -> WorkSpec:
        """Say what is asked for; plain requests share theirs, for making one costs as much as finding a worker."""
        shared = self._shared
        head = self.head
        body_bytes = READ_AHEAD_BYTES if head.chunked else min(head.content_length or 0, READ_AHEAD_BYTES)
        size_kib = (head.size_bytes + body_bytes + 1023) // 1024
        fields = self._fields
        if (
            shared.settings.queue_timeout_s is not None
            or fields is None
            or self._model is not None
            or self._avoid
            or self._is_particular
        ):
            return self._make_spec(size_kib, self._deadline_s())
        key = (self._route.name, size_kib, fields)
        spec = shared.specs.get(key)
        if spec is None:
            if len(shared.specs) >= MAX_SPECS:
                shared.specs.clear()
            spec = shared.specs[key] = self._make_spec(size_kib, None)
        return spec

    @property
    def _is_particular(self) -> bool:
        """Whether the client has a name for this request, by which it may be dropped from the queue, or terms."""
        return self.head.request_id is not None or bool(self.head.router_fields)

    def _deadline_s(self) -> float | None:
        """Give the instant at which waiting ends: the sooner of what the client and the settings say."""
        asked_s, limit_s = queue_timeout_s(self.head), self._shared.settings.queue_timeout_s
        timeout_s = limit_s if asked_s is None or (limit_s is not None and limit_s < asked_s) else asked_s
        return None if timeout_s is None else self._shared.leases.now_s() + timeout_s

    def _make_spec(self, size_kib: int, deadline_s: float | None) -> WorkSpec:
        route = self._route
        cost_mpx_steps, cost_known = self._cost()
        return WorkSpec(
            needs=route.needs,
            route=route.name,
            model=self._model,
            creates_job=route.creates_job,
            skips_queue=route.safe,
            size_bytes=size_kib * 1024,
            deadline_s=deadline_s,
            avoid=self._avoid,
            worker=worker(self.head),
            priority=priority(self.head),
            # Reads generate nothing, so no weights matter to them.
            min_version=None if route.safe else min_version(self.head),
            cost_mpx_steps=cost_mpx_steps,
            cost_known=cost_known,
            request_id=(self.head.request_id or b"").decode("latin-1"),
            group=group(self.head),
        )

    def _cost(self) -> tuple[float, bool]:
        """Give the work in megapixel-steps, and whether that is more than a guess."""
        stated = stated_cost(self.head)
        if stated is not None:
            return stated, True
        route, usual = self._route, self._route.usual
        if usual is None or self._fields is None:
            return self._shared.leases.scheduler.costs.usual(route.name, self._model), False
        return cost_of(dict(self._fields), usual), True

    def granted(self, lease: Lease) -> None:
        """A worker came free."""
        self._ticket = None
        self._go(lease)

    def refused(self, error: RouterError) -> None:
        """No worker will come: answer with what went wrong on the last one, if any was tried."""
        self._ticket = None
        if self._last_reply is not None:
            self.answer(*self._last_reply)
        else:
            self.fail(self._last_error or error)

    def _go(self, lease: Lease) -> None:
        self._lease = lease
        self._worker = lease.worker
        self._weight_version = version_field(lease.worker.weight_version)
        self._updates = lease.worker.updates
        self._queued_s += lease.queued_s
        self._fresh_only = False
        lease.holder = self
        self._start_timer()
        idle = self.upstreams.take(lease.worker.worker_id)
        if idle is not None:
            self.start(idle)
        else:
            self._open(lease.worker)

    def _start_timer(self) -> None:
        timeout_s = self._shared.settings.timeout_s
        if timeout_s is not None:
            self._timer = asyncio.get_running_loop().call_later(timeout_s, self._timed_out, timeout_s)

    def _open(self, worker: Worker) -> None:
        self._connecting = self.upstreams.open(worker.worker_id, worker.url, self.start, self.connect_failed)

    def start(self, upstream: UpstreamConnection) -> None:
        self._on_reused = upstream.reused
        if upstream.reused:
            self._sent_s = self._shared.leases.now_s()
        super().start(upstream)

    def reply_began(self, head: ReplyHead, span: bytes, done: bool) -> None:
        if self.has_clients and self._is_from_a_stranger():
            self.lease_cancelled("its process has ended")
            return
        super().reply_began(head, span, done)

    def _is_from_a_stranger(self) -> bool:
        """Tell whether another process than the one that got the lease may have answered.

        A worker that dies and is back within milliseconds accepts the connection that was meant for its predecessor,
        and generates on whatever it has started with.
        """
        worker, lease, upstream = self._worker, self._lease, self.upstream
        if worker is None or lease is None or upstream is None or worker.doubted_s < lease.granted_s:
            return False
        return upstream.made_s > worker.doubted_s - DOUBT_S

    # what the relay asks

    def upstream_head(self) -> bytes:
        worker = self._worker
        assert worker is not None
        head = self.head
        target = head.target
        if self._route.rewrite is not None:
            target = self._route.rewrite if head.query is None else b"%b?%b" % (self._route.rewrite, head.query)
        host = authority(worker.worker_id)
        return self._shared.heads.for_worker(
            self.origin, head, host, target, self.request_id, self._trace_id, may_upgrade=True
        )

    def reply_lines(self, head: ReplyHead) -> bytes:
        worker = self._worker
        assert worker is not None
        self._status = head.status
        if head.content_length is not None and self._lease is not None and not self._route.creates_job:
            # The worker is done when a sized reply begins; its next piece does not wait for the reader of this one.
            self._lease.done_s = self._shared.leases.now_s()
        if self._route.safe:
            return b""
        return b"%bx-sglang-router-queue-ms: %d\r\nx-sglang-router-weight-version: %b\r\n" % (
            worker_line(worker.worker_id),
            self._queued_s * 1000,
            # Other weights came while it was at work: nobody can say which ones made this.
            self._weight_version if worker.updates == self._updates else b"unknown",
        )

    def relocated(self, head: ReplyHead) -> bytes:
        assert self._worker is not None
        return with_relative_locations(head.lines, self._worker.worker_id)

    def hold_limit_bytes(self, head: ReplyHead) -> int:
        if is_telling(head.status) or head.status in self._shared.retry_limits.statuses:
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

    # failures

    def on_connect_failed(self, error: ConnectFailed) -> None:
        if self._fresh_only:
            # It broke off just now and cannot be had again: that was no idle connection timing out, but its death.
            self._died(replayable=self.replayable)
            return
        self._last_error = error
        limits = self._shared.retry_limits
        if may_retry(Failure.CONNECT, limits, killed=len(self._killed), failed=self._failed):
            self._try_elsewhere(Result.CONNECT_FAILED, 0, error)
        else:
            self._result = Result.CONNECT_FAILED
            self.fail(error)

    def on_died(self, *, replayable: bool) -> None:
        worker = self._worker
        assert worker is not None
        stale = self._on_reused and self._shared.leases.now_s() - self._sent_s < STALE_S
        if stale and replayable and not self._fresh_only:
            # The worker may have closed an idle connection in the moment it was used: ask it again on a fresh one.
            self._fresh_only = True
            self._open(worker)
        else:
            self._died(replayable=replayable)

    def _died(self, *, replayable: bool) -> None:
        worker = self._worker
        assert worker is not None
        self._killed += (str(worker.url),)
        self._failed += 1
        self._last_reply = None
        error = UpstreamDied(list(self._killed))
        if replayable and self._may_retry(Failure.DIED):
            self._try_elsewhere(Result.DIED, 0, error)
        else:
            self._result = Result.DIED
            self.fail(error)

    def _may_retry(self, failure: Failure) -> bool:
        """Tell whether what a worker has had may go to another.

        What a worker's death or sleep has cost goes on without a budget: the client is owed its reply.
        """
        shared = self._shared
        if not may_retry(failure, shared.retry_limits, killed=len(self._killed), failed=self._failed):
            return False
        if failure is not Failure.STATUS:
            return True
        if not self._is_retry:
            scheduler = shared.leases.scheduler
            self._is_retry = shared.retry_budget.take(scheduler.live_leases + scheduler.queued)
            shared.counters.retries_over_budget += not self._is_retry
        return self._is_retry

    def _try_elsewhere(self, result: Result, status: int, error: RouterError | None) -> None:
        assert self._worker is not None
        self._avoid |= {self._worker.worker_id}
        self._last_error = error
        self._result = None
        self._shared.counters.retries += 1
        self.retry()
        self._release(result, status)
        self._ask()

    def lease_cancelled(self, reason: str) -> None:
        """The worker is lost: what has not begun to answer goes elsewhere."""
        if self._tunnel is not None:
            self._tunnel.close()
            return
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
            assert self._worker is not None
            self.on_connect_failed(ConnectFailed(str(self._worker.url), reason))
            return
        upstream = self.upstream
        self._on_reused = False
        self.upstream_lost(None)
        if upstream is not None:
            upstream.close()

    def worker_draining(self) -> None:
        """A tunnel would hold up its worker's drain for ever."""
        if self._tunnel is not None:
            asyncio.get_running_loop().call_later(TUNNEL_DRAIN_S, self._tunnel.restart_elsewhere)

    def _timed_out(self, timeout_s: float) -> None:
        """The worker is late: the client is told, the worker stays charged, for it works on."""
        self._timer = None
        worker = self._worker
        if worker is not None and self.has_clients and not self.reply_begun and self._tunnel is None:
            self.fail_and_await(UpstreamTimeout(str(worker.url), timeout_s))

    def on_orphaned(self) -> None:
        settings = self._shared.settings
        self._count_orphan(1)
        if settings.on_disconnect == OnDisconnect.CANCEL:
            self.give_up()
            return
        self._cancel_timer()
        self._timer = asyncio.get_running_loop().call_later(settings.orphan_timeout_s, self.give_up)

    def on_rejoined(self) -> None:
        self._count_orphan(-1)
        self._cancel_timer()
        self._start_timer()

    def _count_orphan(self, change: int) -> None:
        counters = self._shared.counters
        self._is_orphan = change > 0
        counters.orphans_now += change
        counters.orphans += self._is_orphan

    # the end

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _release(self, result: Result, status: int) -> None:
        self._cancel_timer()
        lease = self._lease
        self._lease = None
        if lease is not None:
            lease.holder = None
            self._shared.leases.release(lease, result, status)

    def on_end(self, *, whole: bool, head: ReplyHead | None) -> None:
        self._shared.repeats.forget(self)
        if self._is_orphan:
            self._count_orphan(-1)
        if self._is_retry:
            self._shared.retry_budget.give_back()
        if self._ticket is not None:
            self._shared.leases.abandon(self._ticket)
            self._ticket = None
        status = self._status if head is None else head.status
        self._shared.counters.count(self._route.name, status, self.body_bytes, self.reply_bytes)
        result = self._result
        if result is None:
            if whole:
                result = Result.SERVER_ERROR if status >= 500 else Result.OK
            else:
                result = Result.DIED if self.worker_failed else Result.ABANDONED
        self._release(result, status)
