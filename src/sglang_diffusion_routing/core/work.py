"""What is to be run, the right to run it, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NamedTuple, Protocol

from sglang_diffusion_routing.core.cost import UNKNOWN_COST_MPX_STEPS
from sglang_diffusion_routing.core.worker import Worker, WorkerId
from sglang_diffusion_routing.errors import RouterError


class Needs(Enum):
    """What a worker must be able to make."""

    IMAGE = "image"
    VIDEO = "video"
    ANY = "any"

    # Members are the same only if they are identical; Enum hashes their names, by a call for every request.
    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class WorkSpec:
    """One piece of work as the scheduler sees it.

    needs: capability asked for.
    route: name of the route, of a bounded set.
    model: served model id that the request names, None if it names none (or it does not matter).
    creates_job: the reply comes at once and the work goes on; never held back by the cap.
    skips_queue: GET, HEAD and OPTIONS of the catch-all: no cap, no queue, sleeping workers too.
    size_bytes: bytes that waiting costs the router (head and what is kept of the body).
    deadline_s: instant at which waiting ends with `QueueTimeout`, None for never.
    avoid: workers that already failed this work.
    worker: the one worker that may do it; None for any.
    priority: of what waits, higher is next.
    min_version: weight version that the worker must have, or a later one in the ledger's order; None for any.
    cost_mpx_steps: how much work it is; cost_known: whether that was read or stated, and is no guess.
    request_id, group: what the client calls this request, and the requests it belongs to; empty when it does not say.
    spread: whether its group is to be spread over the workers, and not kept on one.
    tenant: for whom it is, where several share the workers; all that do not say are one, "".
    digest: of what it is to make, where that says which worker it goes to; else empty.
    """

    needs: Needs = Needs.ANY
    route: str = ""
    model: str | None = None
    creates_job: bool = False
    skips_queue: bool = False
    size_bytes: int = 0
    deadline_s: float | None = None
    avoid: frozenset[WorkerId] = frozenset()
    worker: WorkerId | None = None
    priority: int = 0
    min_version: str | None = None
    cost_mpx_steps: float = UNKNOWN_COST_MPX_STEPS
    cost_known: bool = False
    request_id: str = ""
    group: str = ""
    spread: bool = False
    tenant: str = ""
    digest: bytes = b""


Floor = tuple[tuple[str, int], ...]
"""Places, in the orders of some weight groups, of the oldest weights of each that will do."""


class LineKey(NamedTuple):
    """What decides, among work that the same workers can do, who may take it, and what it goes before.

    What is alike waits in one line. It may change while it waits, but for `avoid`, `creates_job` and `priority`.

    avoid: workers that failed it. min_version: weights that it needs, or later ones; None for any.
    bound: the one worker that it waits for; None for any. tenant: whose turn it waits for.
    floor: weights that its group has come to. spread: whether it goes where fewest of its group have been.
    """

    avoid: frozenset[WorkerId] = frozenset()
    creates_job: bool = False
    min_version: str | None = None
    bound: WorkerId | None = None
    priority: int = 0
    floor: Floor = ()
    spread: bool = False
    tenant: str = ""

    @classmethod
    def of(cls, spec: WorkSpec) -> LineKey:
        """Say it of work as the client asked for it."""
        avoid, worker, priority = spec.avoid, spec.worker, spec.priority
        return cls(avoid, spec.creates_job, spec.min_version, worker, priority, (), spec.spread, spec.tenant)


class Result(IntEnum):
    """How a piece of work on a worker ended, as far as that worker is concerned."""

    OK = 0
    """A complete reply below 500, or a job that ended."""
    SERVER_ERROR = 1
    """A complete reply of 5xx."""
    ASLEEP = 2
    """The worker said that it sleeps."""
    CONNECT_FAILED = 3
    """Nothing was accepted: refused or timed out while connecting."""
    DIED = 4
    """The connection broke before the reply was whole."""
    ABANDONED = 5
    """Given up by the client or the router before the worker was done; says nothing about the worker."""
    SCHEDULER_DIED = 6
    """The worker's HTTP process said that its scheduler process is gone; nothing ran."""


class JobStatus(Enum):
    """What a worker says of a job."""

    RUNNING = "running"
    ENDED = "ended"
    """It is there."""
    FAILED = "failed"
    """It has ended, and there is nothing."""
    UNKNOWN = "unknown"
    """The worker does not know it, or no longer."""
    LOST = "lost"
    """No answer came."""


class Waiter(Protocol):
    """Who asked for a lease; told exactly once, by `granted` or `refused`, unless it abandons first."""

    def granted(self, lease: Lease) -> None: ...

    def refused(self, error: RouterError) -> None: ...


class Holder(Protocol):
    """Who holds a lease; told when the worker is lost, and must then release it."""

    __slots__ = ()

    def lease_cancelled(self, reason: str) -> None:
        """The worker died, was force-removed or its grace expired: stop, release, fail over if possible."""

    def worker_draining(self) -> None:
        """The worker is being drained; a tunnel ends itself after its grace, anything else goes on."""


class Lease:
    """The right to run one piece of work on one worker. Ends exactly once, by `Scheduler.release`.

    done_s: instant at which the worker had done the work, though its reply was still on its way; None: when the lease
        ends. A job's is set only if there is something to show for it.
    ended_s: instant of its end; that of its beginning while it lives.
    """

    __slots__ = ("done_s", "ended_s", "granted_s", "holder", "lease_id", "live", "queued_s", "spec", "worker")

    def __init__(self, lease_id: int, worker: Worker, spec: WorkSpec, granted_s: float, queued_s: float) -> None:
        self.lease_id = lease_id
        self.worker = worker
        self.spec = spec
        self.granted_s = self.ended_s = granted_s
        self.queued_s = queued_s
        self.live = True
        self.done_s: float | None = None
        self.holder: Holder | None = None


class Ticket:
    """A place in the queue.

    key: what it waits for now.
    due_at: work that its lane has given out, in megapixel-steps, when it has waited long enough.
    """

    __slots__ = ("due_at", "enqueued_s", "key", "sequence", "spec", "waiter", "waiting")

    def __init__(
        self, spec: WorkSpec, waiter: Waiter, enqueued_s: float, sequence: int, key: LineKey | None = None
    ) -> None:
        self.spec = spec
        self.key = LineKey.of(spec) if key is None else key
        self.waiter = waiter
        self.enqueued_s = enqueued_s
        self.sequence = sequence
        self.waiting = True
        self.due_at = 0.0


@dataclass(frozen=True, slots=True)
class Granted:
    """Decision: this ticket has this lease."""

    ticket: Ticket
    lease: Lease


@dataclass(frozen=True, slots=True)
class Refused:
    """Decision: this ticket waits in vain."""

    ticket: Ticket
    error: RouterError


Decision = Granted | Refused
