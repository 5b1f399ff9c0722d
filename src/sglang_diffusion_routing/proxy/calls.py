"""Requests without a lease: to the control app, and to the worker that owns a job."""

from __future__ import annotations

from abc import abstractmethod

from sglang_diffusion_routing.core.affinity import Gone, Pinned
from sglang_diffusion_routing.core.state import Health, WorkerState
from sglang_diffusion_routing.core.worker import Worker, WorkerId
from sglang_diffusion_routing.errors import (
    ConnectFailed,
    JobOwnerGone,
    OwnerUnavailable,
    UnknownJob,
    UpstreamDied,
)
from sglang_diffusion_routing.http1.downstream import DownstreamConnection
from sglang_diffusion_routing.http1.relay import Exchange
from sglang_diffusion_routing.http1.reply_head import ReplyHead
from sglang_diffusion_routing.http1.request_head import RequestHead
from sglang_diffusion_routing.http1.turns import Held
from sglang_diffusion_routing.http1.upstream import UpstreamConnection
from sglang_diffusion_routing.proxy.heads import request_id_line, with_relative_locations, worker_line
from sglang_diffusion_routing.proxy.routes import Route
from sglang_diffusion_routing.proxy.shared import Shared
from sglang_diffusion_routing.tasks import spawn

CONTROL_ID = WorkerId("control")
"""Key of the control app's connections in the pool."""
_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS"})
STATUS_BYTES = 65536
"""A job's status reply is read whole up to this size, to learn whether the job has ended."""


class Call(Exchange):
    """A request that goes to one given place; a failure there is the client's to see."""

    __slots__ = ("_on_reused", "_route", "_shared", "_status", "_trace_id")

    def __init__(self, shared: Shared, downstream: DownstreamConnection, head: RequestHead, route: Route) -> None:
        super().__init__(downstream, head, shared.upstreams, replay_max_bytes=shared.replay_max_bytes)
        self._shared = shared
        self._route = route
        self.request_id, self._trace_id = shared.heads.ids(head)
        self._status = 0
        self._on_reused = False

    @abstractmethod
    def name(self) -> str:
        """Name the place, for errors."""

    def reply_lines(self, head: ReplyHead) -> bytes:
        self._status = head.status
        return request_id_line(head, self.request_id)

    def on_connect_failed(self, error: ConnectFailed) -> None:
        self.fail(error)

    def on_died(self, *, replayable: bool) -> None:
        if self._on_reused and self._reply is None and replayable and self.head.method in _IDEMPOTENT:
            # An idle connection that its worker closed in the moment it was used.
            self.open()
        else:
            self.fail(UpstreamDied([self.name()]))

    def start(self, upstream: UpstreamConnection) -> None:
        self._on_reused = upstream.reused
        super().start(upstream)

    @abstractmethod
    def open(self) -> None:
        """Open a connection to the place."""

    def on_orphaned(self) -> None:
        # Nothing here holds a lease: nobody gains by the answer.
        self.give_up()

    def on_end(self, *, whole: bool, head: ReplyHead | None) -> None:
        status = self._status if head is None else head.status
        self._shared.counters.count(self._route.name, status, self.body_bytes, self.reply_bytes)


class ControlCall(Call):
    """A request that the control app answers, over its Unix socket."""

    __slots__ = ()
    survives_half_close = True

    def on_body(self) -> None:
        if self._connecting is not None:
            return
        idle = self.upstreams.take(CONTROL_ID)
        if idle is not None:
            self.start(idle)
        else:
            self.open()

    def open(self) -> None:
        self._connecting = self.upstreams.open(CONTROL_ID, self._shared.control_path, self.start, self.connect_failed)

    def name(self) -> str:
        return "the control app"

    def upstream_head(self, worker_id: WorkerId) -> bytes:
        downstream = self.origin
        head = self.head
        written = self._shared.heads.for_worker(
            downstream, head, worker_id, head.target, self.request_id, self._trace_id
        )
        # A client's own x-sglang-router-* never pass, so that these are facts.
        return b"%bx-sglang-router-peer: %b:%d\r\nx-sglang-router-key: %b\r\n\r\n" % (
            written[:-2],
            downstream.peer[0].encode(),
            downstream.peer[1],
            self._shared.access.who(head).encode(),
        )


class JobCall(Call):
    """A request for something that one worker has made."""

    __slots__ = ("_asked", "_worker")

    def __init__(self, shared: Shared, downstream: DownstreamConnection, head: RequestHead, route: Route) -> None:
        super().__init__(shared, downstream, head, route)
        self._worker: Worker | None = None
        self._asked = False

    def on_body(self) -> None:
        if self._asked:
            return
        self._asked = True
        kind, job_id = self._route.job_kind, self._route.job_id
        leases = self._shared.leases
        owner = leases.affinity.owner(kind, job_id, leases.now_s())
        if isinstance(owner, Pinned):
            self._go(leases.pool.get(owner.worker_id))
        elif isinstance(owner, Gone):
            self.fail(JobOwnerGone(job_id, owner.url))
        else:
            self._connecting = spawn(self._locate(kind, job_id), name="locate-job")

    async def _locate(self, kind: str, job_id: str) -> None:
        worker_id = await self._shared.locator.locate(kind, job_id)
        self._connecting = None
        if worker_id is None:
            self.fail(UnknownJob(job_id))
        else:
            self._go(self._shared.leases.pool.get(worker_id))

    def _go(self, worker: Worker | None) -> None:
        job_id = self._route.job_id
        if worker is None:
            self.fail(UnknownJob(job_id))
            return
        status = _unavailable(worker)
        if status is not None:
            self.fail(OwnerUnavailable(job_id, str(worker.url), status))
            return
        self._worker = worker
        idle = self.upstreams.take(worker.worker_id)
        if idle is not None:
            self.start(idle)
        else:
            self.open()

    def open(self) -> None:
        worker = self._worker
        assert worker is not None
        self._connecting = self.upstreams.open(worker.worker_id, worker.url, self.start, self.connect_failed)

    def name(self) -> str:
        return "the worker" if self._worker is None else str(self._worker.url)

    def upstream_head(self, worker_id: WorkerId) -> bytes:
        head = self.head
        return self._shared.heads.for_worker(self.origin, head, worker_id, head.target, self.request_id, self._trace_id)

    def reply_lines(self, head: ReplyHead) -> bytes:
        worker = self._worker
        assert worker is not None
        return worker_line(worker.worker_id) + super().reply_lines(head)

    def relocated(self, head: ReplyHead) -> bytes:
        assert self._worker is not None
        return with_relative_locations(head.lines, self._worker.worker_id)

    def hold_limit_bytes(self, head: ReplyHead) -> int:
        watched = self._route.job_kind != "images" and not self.head.path.endswith(b"/content")
        return STATUS_BYTES if watched and head.status == 200 and head.is_sized else 0

    def on_held(self, head: ReplyHead, body: bytes) -> Held:
        jobs = self._shared.jobs
        if self.head.method == b"DELETE":
            jobs.deleted(self._route.job_kind, self._route.job_id)
        elif self.head.method == b"GET":
            jobs.heard(self._route.job_kind, self._route.job_id, body)
        return Held.SEND


def _unavailable(worker: Worker) -> str | None:
    """Say why a worker cannot be asked about its jobs: asleep or quarantined (API §2)."""
    if worker.health is Health.QUARANTINED:
        return "quarantined"
    if worker.state in {WorkerState.SLEEPING, WorkerState.RELEASING, WorkerState.RESUMING}:
        return str(worker.state.value)
    return None
