"""Changes on their way to the disk: of several to one thing the last counts."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

from sglang_diffusion_routing.core.weights import Group
from sglang_diffusion_routing.store.saved import SavedJob, SavedRefit, SavedWorker

REFITS_KEPT = 256
"""Refits whose record is kept, the newest."""


@dataclass(slots=True)
class Batch:
    """What is to be put, by what names it; None for what is to be dropped.

    workers: by registration. groups: by name. refits: by id. jobs: by kind and id.
    """

    workers: dict[int, SavedWorker | None] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    refits: dict[str, SavedRefit] = field(default_factory=dict)
    jobs: dict[tuple[str, str], SavedJob | None] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.workers) + len(self.groups) + len(self.refits) + len(self.jobs)

    def over(self, older: Batch) -> Batch:
        """Give `older` with this batch's changes laid over it."""
        return Batch(
            {**older.workers, **self.workers},
            {**older.groups, **self.groups},
            {**older.refits, **self.refits},
            {**older.jobs, **self.jobs},
        )

    def trim(self, job_cap: int, stored_workers: Container[int] | None = None) -> None:
        """Let go of what would pile up while a disk takes nothing: the oldest, of which the file keeps no more either.

        Args:
            stored_workers: registrations that the file has; others need not be dropped from it. None: all may be.
        """
        if stored_workers is not None:
            needless = [key for key, worker in self.workers.items() if worker is None and key not in stored_workers]
            for key in needless:
                del self.workers[key]
        while len(self.refits) > REFITS_KEPT:
            del self.refits[next(iter(self.refits))]
        while len(self.jobs) > job_cap:
            del self.jobs[next(iter(self.jobs))]
