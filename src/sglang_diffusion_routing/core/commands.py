"""What is to be done to workers, and who is to be told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from sglang_diffusion_routing.core.worker import RequestId, WorkerId
from sglang_diffusion_routing.core.worker_url import WorkerUrl


@dataclass(frozen=True, slots=True)
class ProbeWorker:
    """Probe now, whatever is due; ends in `ProbeSucceeded` or `ProbeFailed`."""

    worker_id: WorkerId
    incarnation: int


@dataclass(frozen=True, slots=True)
class OpenSentinel:
    """Open the silent connection; ends in `SentinelLost`, sooner or later."""

    worker_id: WorkerId
    incarnation: int


@dataclass(frozen=True, slots=True)
class ReleaseMemory:
    """Put the worker to sleep; ends in `CommandSucceeded`, `CommandRefused` or `CommandLost`."""

    worker_id: WorkerId
    command_id: int


@dataclass(frozen=True, slots=True)
class ResumeMemory:
    """Wake the worker; ends like `ReleaseMemory`."""

    worker_id: WorkerId
    command_id: int


@dataclass(frozen=True, slots=True)
class UpdateWeights:
    """Send the worker the refit that `refit_id` names; ends like `ReleaseMemory`."""

    worker_id: WorkerId
    command_id: int
    refit_id: str


@dataclass(frozen=True, slots=True)
class ResyncWeights:
    """Bring one worker to its group's target (`Pool.resync_plan`); ends like `ReleaseMemory`."""

    worker_id: WorkerId
    command_id: int


@dataclass(frozen=True, slots=True)
class LearnChecksums:
    """Ask a worker, or another that has the same, what its weights hash to; ends in `ChecksumsRead` if one says it."""

    worker_id: WorkerId
    incarnation: int


@dataclass(frozen=True, slots=True)
class CheckWeights:
    """Compare a worker's checksums with those of what it has loaded, or of its group's target if that is unchecked.

    Changes nothing on the worker, which may serve or sleep. Ends in `WeightsChecked` if it can be told.
    """

    worker_id: WorkerId
    incarnation: int


@dataclass(frozen=True, slots=True)
class CancelLeases:
    """Tell every holder of a lease on the worker that it is lost (`Holder.lease_cancelled`)."""

    worker_id: WorkerId
    reason: str


@dataclass(frozen=True, slots=True)
class AnnounceDrain:
    """Tell every holder of a lease on the worker that it is being drained (`Holder.worker_draining`)."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class ForgetWorker:
    """The worker is gone: close its sentinel and connections, let its jobs answer that it is gone."""

    worker_id: WorkerId
    incarnation: int
    url: WorkerUrl


class Outcome(Enum):
    """How what was asked of a worker ended."""

    DONE = "done"
    REFUSED = "refused"
    LOST = "lost"
    EXPIRED = "expired"
    """The drain limit passed; the worker serves again."""
    SUPERSEDED = "superseded"
    """Something stronger, or later, was asked instead."""
    CONFLICT = "conflict"
    """It waited behind a command, after which the worker's state did not allow it."""


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """Tell whoever asked how it ended. reason: a worker's own words, or why; empty when done."""

    request: RequestId
    worker_id: WorkerId
    outcome: Outcome
    reason: str = ""


Command = (
    ProbeWorker
    | OpenSentinel
    | ReleaseMemory
    | ResumeMemory
    | UpdateWeights
    | ResyncWeights
    | LearnChecksums
    | CheckWeights
    | CancelLeases
    | AnnounceDrain
    | ForgetWorker
    | AnswerRequest
)
