"""What happens to one request, with its instants, for those who tell of it when it is over.

A story is kept only where somebody wants it: the classes of `observed.py` do so, and without them nothing here runs.
Instants are on the loop's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import structlog

from sglang_diffusion_routing.core.affinity import Affinity
from sglang_diffusion_routing.core.pool import Pool
from sglang_diffusion_routing.core.scheduler import Scheduler
from sglang_diffusion_routing.core.weights import shown_version
from sglang_diffusion_routing.core.work import Lease, Result, Ticket, Waiter, WorkSpec
from sglang_diffusion_routing.core.worker import Worker
from sglang_diffusion_routing.errors import RouterError
from sglang_diffusion_routing.http1.downstream import DownstreamConnection
from sglang_diffusion_routing.http1.request_head import RequestHead
from sglang_diffusion_routing.proxy.ports import Leases
from sglang_diffusion_routing.proxy.routes import Kind, Route, route
from sglang_diffusion_routing.spans import TraceContext

_log = structlog.get_logger(__name__)

UNREAD = Route(Kind.CONTROL, "unread")
"""Stands for the route of what could not be read."""


class Try:
    """One attempt at a piece of work, on one worker.

    is_copy: it was made to race another one. weights: what the worker had when it was given the work.
    connecting_s: a connection was begun, None: one was there. sent_s: the request was on its way. head_s: the reply's
    head had come. ended_s: the lease was over. job: kind of the job that took
    the lease over.
    """

    __slots__ = (
        "connecting_s",
        "ended_s",
        "head_s",
        "is_copy",
        "job",
        "lease",
        "result",
        "sent_s",
        "status",
        "trace",
        "weights",
    )

    def __init__(self, lease: Lease, *, is_copy: bool) -> None:
        self.lease = lease
        self.is_copy = is_copy
        self.weights = shown_version(lease.worker.loaded)
        self.connecting_s: float | None = None
        self.sent_s: float | None = None
        self.head_s: float | None = None
        self.ended_s: float | None = None
        self.result: Result | None = None
        self.status = 0
        self.job: str | None = None
        self.trace: TraceContext | None = None


class Story:
    """One request of a client.

    now: the attempt whose reply the client gets, as far as that is known. tries: all of them, in turn.
    worker: that of a request without a lease.
    status: that the client was told, 0 when it was told none. error: the router's own, where it answered with one.
    queued_s: it has waited so long for workers. left_s: its client had gone; the worker may go on.
    trace: its place in a trace that is recorded, or in one that is not and that begins here; else None. parent: the
    client's place.
    """

    __slots__ = (
        "arrived_s",
        "body_bytes",
        "client",
        "ended_s",
        "error",
        "head",
        "is_told",
        "left_s",
        "now",
        "parent",
        "queued_s",
        "reply_bytes",
        "request_id",
        "route",
        "status",
        "trace",
        "tries",
        "worker",
    )

    def __init__(
        self, head: RequestHead, route: Route, client: tuple[str, int], request_id: str, arrived_s: float
    ) -> None:
        self.head = head
        self.route = route
        self.client = client
        self.request_id = request_id
        self.arrived_s = arrived_s
        self.ended_s = arrived_s
        self.left_s: float | None = None
        self.is_told = False
        self.tries: list[Try] = []
        self.now: Try | None = None
        self.worker: Worker | None = None
        self.queued_s = 0.0
        self.status = 0
        self.error: RouterError | None = None
        self.body_bytes = 0
        self.reply_bytes = 0
        self.trace: TraceContext | None = None
        self.parent: TraceContext | None = None

    @property
    def client_ended_s(self) -> float:
        """The instant at which it was over for the client."""
        return self.ended_s if self.left_s is None else self.left_s


class Teller(Protocol):
    """Tells of requests."""

    def begun(self, story: Story) -> None:
        """A request has come."""

    def tried(self, story: Story, one: Try) -> None:
        """It is given a worker."""

    def given_back(self, story: Story, one: Try) -> None:
        """The worker is done with it, or given up; the request may go on elsewhere, or be over for long."""

    def ended(self, story: Story) -> None:
        """It is over for its client; a worker may still be at it."""


class Stories(Leases):
    """Keeps the stories of what is under way: stands before the leases, for a lease's end is an attempt's."""

    def __init__(self, leases: Leases, tellers: Iterable[Teller]) -> None:
        self._leases = leases
        self._tellers = tuple(tellers)
        self._live: dict[Lease, tuple[Story, Try]] = {}

    def begin(self, head: RequestHead, route: Route, downstream: DownstreamConnection, request_id: bytes) -> Story:
        """Begin the story of a request whose head has come."""
        peer = downstream.peer
        story = Story(head, route, (peer[0], peer[1]), request_id.decode("latin-1"), self.now_s())
        self._tell(lambda teller: teller.begun(story))
        return story

    def refused(self, downstream: DownstreamConnection, request_id: bytes, error: RouterError) -> None:
        """Tell of a request that nobody has dealt with; of one that could not be read nothing else is known."""
        head = downstream.head or RequestHead(0)
        # Neither `*` nor what CONNECT names is a path.
        found = route(head.method, head.path, head.query) if head.path[:1] == b"/" else UNREAD
        story = self.begin(head, found, downstream, request_id)
        story.status, story.error = error.http_status, error
        self.end(story)

    def attempt(self, story: Story, lease: Lease, *, is_copy: bool = False) -> Try:
        """Go on with a worker that the request was given."""
        one = Try(lease, is_copy=is_copy)
        story.tries.append(one)
        self._live[lease] = story, one
        self._tell(lambda teller: teller.tried(story, one))
        return one

    def of(self, lease: Lease | None) -> Try | None:
        """Give the attempt that has a lease."""
        found = None if lease is None else self._live.get(lease)
        return None if found is None else found[1]

    def end(self, story: Story) -> None:
        """End the story of a request, once."""
        if story.is_told:
            return
        story.is_told = True
        story.ended_s = self.now_s()
        self._tell(lambda teller: teller.ended(story))

    def _tell(self, tell: Callable[[Teller], None]) -> None:
        for teller in self._tellers:
            try:
                tell(teller)
            except Exception:  # noqa: BLE001 - whatever is wrong with what is told of it, the request goes on
                _log.exception("request_not_told", teller=type(teller).__name__)

    # Leases

    def now_s(self) -> float:
        return self._leases.now_s()

    @property
    def pool(self) -> Pool:
        return self._leases.pool

    @property
    def scheduler(self) -> Scheduler:
        return self._leases.scheduler

    @property
    def affinity(self) -> Affinity:
        return self._leases.affinity

    def acquire(self, spec: WorkSpec, waiter: Waiter) -> Lease | Ticket:
        return self._leases.acquire(spec, waiter)

    def adopt(self, worker: Worker, spec: WorkSpec) -> Lease:
        return self._leases.adopt(worker, spec)

    def abandon(self, ticket: Ticket) -> None:
        self._leases.abandon(ticket)

    def release(self, lease: Lease, result: Result, status: int = 0) -> None:
        found = self._live.pop(lease, None)
        if found is not None:
            story, one = found
            one.ended_s, one.result, one.status = self.now_s(), result, status or one.status
            self._tell(lambda teller: teller.given_back(story, one))
        self._leases.release(lease, result, status)
