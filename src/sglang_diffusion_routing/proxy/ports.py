"""What the proxy needs of the rooms above it."""

from __future__ import annotations

from typing import Protocol

from sglang_diffusion_routing.core.affinity import Affinity
from sglang_diffusion_routing.core.pool import Pool
from sglang_diffusion_routing.core.scheduler import Scheduler
from sglang_diffusion_routing.core.work import JobStatus, Lease, Result, Ticket, Waiter, WorkSpec
from sglang_diffusion_routing.core.worker import Worker, WorkerId


class Leases(Protocol):
    """The owner of pool and scheduler."""

    @property
    def pool(self) -> Pool: ...
    @property
    def scheduler(self) -> Scheduler: ...
    @property
    def affinity(self) -> Affinity: ...

    def now_s(self) -> float:
        """The instant, on the loop's clock."""

    def acquire(self, spec: WorkSpec, waiter: Waiter) -> Lease | Ticket:
        """Take a lease or a place in the queue; raises `QueueFull`, `NoRoutableWorker`, `NoCapableWorker`."""

    def adopt(self, worker: Worker, spec: WorkSpec) -> Lease:
        """Take a lease for work that is on the worker already."""

    def abandon(self, ticket: Ticket) -> None:
        """Leave the queue."""

    def release(self, lease: Lease, result: Result, status: int = 0) -> None:
        """End a lease, once. status: of the worker's reply, 0 when there was none."""


class JobSaver(Protocol):
    """Remembers jobs beyond the router's own life.

    is_durable: whether there is such a memory, so that waiting for it makes sense.
    """

    @property
    def is_durable(self) -> bool: ...

    def note_job(self, kind: str, job_id: str, worker: Worker, *, running: bool) -> None:
        """Keep who made a thing, and whether it still works on it; returns at once."""

    async def flush(self) -> bool:
        """Return when all that was noted is kept; False when it is not after a few seconds."""


class JobLocator(Protocol):
    """Finds the worker that made a thing whose id the router does not know."""

    async def locate(self, kind: str, job_id: str) -> WorkerId | None:
        """Ask the workers. kind: "videos", "meshes" or "images"."""


class JobProbe(Protocol):
    """Asks a worker about its jobs."""

    async def status(self, kind: str, job_id: str, worker: Worker) -> JobStatus:
        """Ask once, within the probe's deadline."""

    async def barrier(self, worker: Worker) -> None:
        """Return when a call through the worker's queue has come back, so that what was before it is done."""


class ReplyCopy(Protocol):
    """The beginning of a reply, for who shows what was made; nobody waits for it."""

    def take(self, span: bytes) -> None:
        """Take in what comes next; it may have had enough."""

    def end(self, *, whole: bool) -> None:
        """No more will come; whole: nothing is missing. To be called again does nothing."""


class Gallery(Protocol):
    """Shows images that were made."""

    def collect(self, lease: Lease, weights: str | None, *, is_chunked: bool) -> ReplyCopy | None:
        """Begin to look at a reply with images; None: not at this one.

        Args:
            weights: version that it was made on, None when nobody can say.
            is_chunked: its bytes come with the frames of chunks.
        """
