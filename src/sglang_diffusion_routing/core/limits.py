"""How much may run on a worker at once, and how much may wait."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sglang_diffusion_routing.core.worker import Worker

NO_CAP = 1 << 62
"""The cap of a worker without one."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """max_requests: tickets. max_bytes: sum of their `size_bytes`.

    weights_wait_s: how long work waits while no worker has weights as new as it demands.
    max_demands: weight versions that are demanded at the same time; each is looked at whenever a worker comes free.
    max_tenants: tenants whose work waits at the same time; what there are more share one place.
    """

    max_requests: int = 16_384
    max_bytes: int = 256 * 2**20
    weights_wait_s: float = 600.0
    max_demands: int = 64
    max_tenants: int = 1024


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """max_concurrency: work that one worker is given at once, 0 for no cap.

    A worker does one piece of work at a time (worker FIFO); the second is there when the first ends.

    ramp: whether a worker that is new, or back, is given more work only as it proves itself.
    weights: of tenants, where they have others than 1.
    """

    queue: QueueLimits = field(default_factory=QueueLimits)
    max_concurrency: int = 2
    ramp: bool = True
    weights: Mapping[str, float] = field(default_factory=dict)

    def cap_of(self, worker: Worker) -> int:
        """Give the worker's cap: its own, else everybody's."""
        cap = self.max_concurrency if worker.max_concurrency is None else worker.max_concurrency
        return cap or NO_CAP
