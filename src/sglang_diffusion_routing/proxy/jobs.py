"""Follow jobs to their end, so that they count as load for as long as they run."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable

import structlog

from sglang_diffusion_routing.core.jobs import status_in
from sglang_diffusion_routing.core.work import JobStatus, Lease, Result, WorkSpec
from sglang_diffusion_routing.core.worker import Worker
from sglang_diffusion_routing.metrics.histogram import WORK_S, Histogram
from sglang_diffusion_routing.proxy.peek import json_string
from sglang_diffusion_routing.proxy.ports import JobProbe, JobSaver, Leases
from sglang_diffusion_routing.tasks import Tasks, spawn

_log = structlog.get_logger(__name__)

FIRST_POLL_S = 1.0
LAST_POLL_S = 10.0
"""A worker is asked after 1 s, then ever more seldom: a GET costs it 2-17 ms, a video takes seconds to minutes."""

Took = defaultdict[str, Histogram]


class _Job:
    """A job under way, and the lease that it holds.

    made: it has ended well. adopted: it was begun under an earlier router, nobody knows when.
    """

    def __init__(self, leases: Leases, took: Took, kind: str, job_id: str, lease: Lease, *, adopted: bool) -> None:
        self.kind = kind
        self.job_id = job_id
        self.worker = lease.worker
        self.news = asyncio.Event()
        self.lost = asyncio.Event()
        self.status = JobStatus.RUNNING
        self.made = False
        self.adopted = adopted
        self._leases = leases
        self._took = took
        self._lease: Lease | None = lease

    def hear(self, status: JobStatus) -> None:
        self.status = status
        self.news.set()

    def release(self, result: Result) -> None:
        lease = self._lease
        self._lease = None
        if lease is not None:
            lease.holder = None
            if self.made:
                lease.done_s = self._leases.now_s()
                if not self.adopted:
                    self._took[lease.spec.route].observe(lease.done_s - lease.granted_s)
            self._leases.release(lease, result)

    # Holder

    def lease_cancelled(self, reason: str) -> None:
        """The worker is lost, and its jobs with it."""
        _log.warning("job_lost", kind=self.kind, job=self.job_id, worker=self.worker.worker_id, why=reason)
        self.release(Result.DIED)
        self.lost.set()
        self.hear(JobStatus.ENDED)

    def worker_draining(self) -> None:
        """A drain waits for jobs."""


class Jobs:
    """The jobs that hold a lease now, and who made what.

    took: how long jobs were under way that have ended well, in seconds, by route name.
    """

    def __init__(self, leases: Leases, probe: JobProbe, saver: JobSaver) -> None:
        self.took: Took = defaultdict(lambda: Histogram(WORK_S))
        self._leases = leases
        self._probe = probe
        self._saver = saver
        self._running: dict[tuple[str, str], _Job] = {}
        self._tasks = Tasks()

    def __len__(self) -> int:
        return len(self._running)

    async def aclose(self) -> None:
        """Follow nothing any more."""
        await self._tasks.cancel_all()

    def learn(self, kind: str, job_id: str, worker: Worker) -> None:
        """Remember which worker made a thing."""
        self._leases.affinity.remember(kind, job_id, worker, self._leases.now_s())
        self._saver.note_job(kind, job_id, worker, running=False)

    def watch(self, kind: str, job_id: str, lease: Lease) -> None:
        """Remember which worker has begun a job, and keep the lease until the job has ended."""
        self._leases.affinity.remember(kind, job_id, lease.worker, self._leases.now_s())
        self._saver.note_job(kind, job_id, lease.worker, running=True)
        self._follow_from_now(kind, job_id, lease, adopted=False)

    def adopt(self, kind: str, job_id: str, worker: Worker) -> None:
        """Follow a job that an earlier router has left running; its owner is remembered already."""
        lease = self._leases.adopt(worker, WorkSpec(route=kind, creates_job=True))
        self._follow_from_now(kind, job_id, lease, adopted=True)

    def save_then(self, act: Callable[[], None]) -> bool:
        """Call `act` when all that was remembered is on disk, or cannot be brought there; False: there is no disk."""
        if not self._saver.is_durable:
            return False
        self._tasks.spawn(self._save(act), name="save-job")
        return True

    async def _save(self, act: Callable[[], None]) -> None:
        try:
            await self._saver.flush()
        finally:
            act()

    def _follow_from_now(self, kind: str, job_id: str, lease: Lease, *, adopted: bool) -> None:
        job = _Job(self._leases, self.took, kind, job_id, lease, adopted=adopted)
        lease.holder = job
        self._running[kind, job_id] = job
        self._tasks.spawn(self._follow(job), name=f"follow-{kind}")

    def heard(self, kind: str, job_id: str, body: bytes) -> None:
        """Learn from a client's own question; that spares the worker ours."""
        job = self._running.get((kind, job_id))
        if job is not None:
            job.hear(status_in(json_string(body, "status")))

    def deleted(self, kind: str, job_id: str) -> None:
        """A deleted job runs on in the engine, but can no longer be asked about."""
        job = self._running.get((kind, job_id))
        if job is not None:
            job.hear(JobStatus.UNKNOWN)

    async def _follow(self, job: _Job) -> None:
        try:
            await self._until_ended(job)
            if self._running.get((job.kind, job.job_id)) is job:
                # Not when the router ends: then the job goes on.
                self._saver.note_job(job.kind, job.job_id, job.worker, running=False)
        finally:
            if self._running.get((job.kind, job.job_id)) is job:
                del self._running[job.kind, job.job_id]
            job.release(Result.OK)

    async def _until_ended(self, job: _Job) -> None:
        delay_s = FIRST_POLL_S
        while True:
            try:
                async with asyncio.timeout(delay_s):
                    await job.news.wait()
                status = job.status
            except TimeoutError:
                delay_s = min(delay_s * 1.5, LAST_POLL_S)
                status = await self._probe.status(job.kind, job.job_id, job.worker)
                if job.news.is_set():
                    status = job.status
            job.news.clear()
            if status is JobStatus.ENDED or status is JobStatus.FAILED:
                job.made = status is JobStatus.ENDED
                return
            if status is JobStatus.UNKNOWN:
                await self._wait_for_queue(job)
                return

    async def _wait_for_queue(self, job: _Job) -> None:
        """Wait until a call behind the job in its worker's queue has returned, or the worker is lost."""
        barrier = spawn(self._probe.barrier(job.worker), name="job-barrier")
        lost = spawn(job.lost.wait(), name="job-lost")
        try:
            await asyncio.wait({barrier, lost}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            barrier.cancel()
            lost.cancel()
