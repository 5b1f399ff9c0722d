"""What finished work teaches: how fast its worker is, and how large such work usually is."""

from __future__ import annotations

from sglang_diffusion_routing.core.cost import CostBook
from sglang_diffusion_routing.core.speed import SHORT_S, Speed, Speeds
from sglang_diffusion_routing.core.station import Station
from sglang_diffusion_routing.core.work import Lease, WorkSpec
from sglang_diffusion_routing.core.worker import Worker


class Experience:
    """The speeds of workers, and the usual costs of work."""

    def __init__(self) -> None:
        self.costs = CostBook()
        self._speeds = Speeds()
        self._noted: WorkSpec | None = None

    def speed_of(self, worker: Worker) -> Speed:
        """Give what is known of a worker with the models that it serves."""
        return self._speeds.of(worker.worker_id, worker.capability.models)

    def learn(self, station: Station, lease: Lease, status: int, now_s: float) -> None:
        """Take in how long a worker was at a piece of work: it begins one when it is done with the one before.

        Args:
            status: of the worker's reply; only work that was done teaches anything.
        """
        done_s = now_s if lease.done_s is None else lease.done_s
        began_s = lease.granted_s if lease.granted_s > station.done_s else station.done_s  # noqa: FURB136
        seconds = done_s - began_s
        if seconds <= 0.0:
            return
        station.done_s = done_s
        spec, speed = lease.spec, station.speed
        if not (lease.done_s is not None if spec.creates_job else 200 <= status < 300):
            return
        if spec.cost_known:
            if seconds < SHORT_S:
                speed.gather(spec.cost_mpx_steps, seconds)
            else:
                speed.learn(spec.cost_mpx_steps, seconds)
            if spec is not self._noted:
                # Most work is like the work before it, and need not be noted twice.
                self._noted = spec
                self.costs.note(spec.route, spec.model, spec.cost_mpx_steps)
        elif speed.per_s:
            self.costs.note(spec.route, spec.model, seconds * speed.per_s)
