"""A fleet without a network: real core, a clock that stands still, commands that are written down."""

from __future__ import annotations

import random

from sglang_diffusion_routing.core.affinity import Affinity
from sglang_diffusion_routing.core.blackhole import BlackHoles
from sglang_diffusion_routing.core.commands import Command
from sglang_diffusion_routing.core.events import (
    CapabilityLearned,
    Event,
    ProbeSucceeded,
    SentinelOpened,
    WorkerRegistered,
)
from sglang_diffusion_routing.core.limits import SchedulerLimits
from sglang_diffusion_routing.core.pool import Pool
from sglang_diffusion_routing.core.scheduler import Scheduler
from sglang_diffusion_routing.core.worker import Capability, Worker, WorkerId, WorkerUrl
from sglang_diffusion_routing.runtime.loop import Fleet


class RecordingFleet(Fleet):
    """Remembers every event that came in and every command that went out.

    instant_s: what its clock shows. clock_reads: how often somebody has looked at it.

    Args:
        resync: whether workers that missed a refit are sent it again.
    """

    def __init__(self, *, resync: bool = True) -> None:
        pool = Pool(resync=resync)
        scheduler = Scheduler(SchedulerLimits(), pool.ledger, random.Random(0), "least-request")
        super().__init__(pool, scheduler, Affinity(), BlackHoles())
        self.instant_s = 100.0
        self.clock_reads = 0
        self.now_s = self._read_clock
        self.events: list[Event] = []
        self.commands: list[Command] = []
        self.run_command = self.commands.append

    def _read_clock(self) -> float:
        self.clock_reads += 1
        return self.instant_s

    def apply(self, event: Event) -> None:
        self.events.append(event)
        super().apply(event)

    def join(self, url: str, *tasks: str) -> Worker:
        """Register a worker that answers, and forget the events and commands of that."""
        parsed = WorkerUrl.parse(url)
        self.apply(WorkerRegistered(parsed))
        worker = self.pool.workers[WorkerId(str(parsed))]
        capability = Capability(tasks or ("T2I",), ("m",), learned=True)
        self.apply(CapabilityLearned(worker.worker_id, worker.incarnation, capability))
        self.apply(ProbeSucceeded(worker.worker_id, worker.incarnation))
        self.apply(SentinelOpened(worker.worker_id, worker.incarnation))
        self.events.clear()
        self.commands.clear()
        return worker
