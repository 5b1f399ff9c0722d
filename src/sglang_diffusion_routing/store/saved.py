"""What outlives the router, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sglang_diffusion_routing.core.refit import Mode, Step
from sglang_diffusion_routing.core.weights import Group


@dataclass(frozen=True, slots=True)
class SavedWorker:
    """One registered worker.

    registration: unique over the life of the file and rising; a worker registered anew has another.
    quarantined: by an operator. held: drained by an operator. asleep: asleep, falling asleep or not yet awake again.
    """

    registration: int
    url: str
    labels: tuple[tuple[str, str], ...] = ()
    max_concurrency: int | None = None
    quarantined: bool = False
    held: bool = False
    asleep: bool = False


@dataclass(frozen=True, slots=True)
class SavedJob:
    """Who made a job.

    registration: of that worker, so that a worker of the same URL that came later is not taken for it; 0 for one that
        was gone already.
    expires_unix_s: when the owner may be forgotten.
    """

    kind: str
    job_id: str
    worker_url: str
    registration: int
    expires_unix_s: float
    running: bool = False


@dataclass(frozen=True, slots=True)
class SavedRefit:
    """One refit of the fleet.

    document: its record as GET /refits shows it, JSON. step: what was sent, None when it cannot be sent again.
    """

    refit_id: str
    document: str
    groups: frozenset[str]
    version: str
    mode: Mode
    is_open: bool
    step: Step | None = None
    admit_new: bool = False
    drain_limit_s: float | None = None


@dataclass(frozen=True, slots=True)
class Saved:
    """Everything that a run of the router left behind.

    workers: in the order of their registration. groups: by name. refits: oldest first. jobs: the first to be
    forgotten first.
    """

    workers: tuple[SavedWorker, ...] = ()
    groups: Mapping[str, Group] = field(default_factory=dict)
    refits: tuple[SavedRefit, ...] = ()
    jobs: tuple[SavedJob, ...] = ()
