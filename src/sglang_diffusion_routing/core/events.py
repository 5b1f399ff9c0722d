"""What happened to workers, and what was asked for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sglang_diffusion_routing.core.health import ProbeFailure
from sglang_diffusion_routing.core.refit import Mode, Step
from sglang_diffusion_routing.core.weights import Checksums, Group, Loaded
from sglang_diffusion_routing.core.worker import Capability, RequestId, WorkerId
from sglang_diffusion_routing.core.worker_url import WorkerUrl

# Asked for by a person, a trainer or the command line.


@dataclass(frozen=True, slots=True)
class WorkerRegistered:
    """A worker was named. Named again, nothing changes, but a removal that still drains is called off."""

    url: WorkerUrl
    labels: tuple[tuple[str, str], ...] = ()
    max_concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class WorkerRestored:
    """A worker is remembered from an earlier run of the router: what it has loaded must be looked at first.

    quarantined, held: by an operator. asleep: the router put it to sleep, and its word still counts.
    """

    url: WorkerUrl
    labels: tuple[tuple[str, str], ...] = ()
    max_concurrency: int | None = None
    quarantined: bool = False
    held: bool = False
    asleep: bool = False


@dataclass(frozen=True, slots=True)
class LedgerRestored:
    """The weight groups are remembered from an earlier run; comes before the workers. No target counts until proven."""

    groups: Mapping[str, Group]


@dataclass(frozen=True, slots=True)
class RefitOpened:
    """A refit of these weight groups has begun.

    Until it has ended nobody of them serves what it had, but for a rolling one, and the router mends nobody itself.

    dormant: it is remembered from an earlier run of the router, and goes on when a worker can take it.
    """

    groups: frozenset[str]
    refit_id: str
    version: str
    mode: Mode
    step: Step
    admit_new: bool = False
    dormant: bool = False


@dataclass(frozen=True, slots=True)
class RefitClosed:
    """A refit is over, well or not."""

    refit_id: str


@dataclass(frozen=True, slots=True)
class ChecksumsRead:
    """A worker that has `loaded` has said what its weights hash to; `updates` is its count when it was asked."""

    group: str
    loaded: Loaded
    checksums: Checksums
    worker_id: WorkerId
    updates: int


@dataclass(frozen=True, slots=True)
class RemovalRequested:
    """Remove a worker once its work has ended, or at once and with its work cancelled (`force`)."""

    worker_id: WorkerId
    force: bool = False
    request: RequestId | None = None
    drain_limit_s: float | None = None


@dataclass(frozen=True, slots=True)
class HoldRequested:
    """Give a worker no more work until it is woken."""

    worker_id: WorkerId
    request: RequestId | None = None
    drain_limit_s: float | None = None


@dataclass(frozen=True, slots=True)
class RefitRequested:
    """Load other weights into a worker once its work has ended, or behind it (`immediate`)."""

    worker_id: WorkerId
    refit_id: str
    version: str
    request: RequestId | None = None
    drain_limit_s: float | None = None
    immediate: bool = False


@dataclass(frozen=True, slots=True)
class WeightsReported:
    """The trainer has given a worker weights itself; "0" for what its process started with."""

    worker_id: WorkerId
    refit_id: str
    version: str


@dataclass(frozen=True, slots=True)
class SleepRequested:
    """Put a worker to sleep once its work has ended."""

    worker_id: WorkerId
    request: RequestId | None = None
    drain_limit_s: float | None = None


@dataclass(frozen=True, slots=True)
class WakeRequested:
    """Wake a sleeping worker, or call off what a worker drains for."""

    worker_id: WorkerId
    request: RequestId | None = None


@dataclass(frozen=True, slots=True)
class QuarantineRequested:
    """An operator takes a worker out; its work goes on, and only the operator brings it back."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class QuarantineLifted:
    """An operator gives a worker back to its probes."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class MaxConcurrencySet:
    """A worker's own cap; None for the router's, 0 for no cap."""

    worker_id: WorkerId
    max_concurrency: int | None


@dataclass(frozen=True, slots=True)
class LabelsSet:
    """A worker's labels; `group` names its weight group."""

    worker_id: WorkerId
    labels: tuple[tuple[str, str], ...]


# Seen on the wire. The incarnation says of which registration; news of an earlier one changes nothing.


@dataclass(frozen=True, slots=True)
class CapabilityLearned:
    """A worker said what it makes, or that it does not say. Comes before a `ProbeSucceeded`, if it could answer."""

    worker_id: WorkerId
    incarnation: int
    capability: Capability


@dataclass(frozen=True, slots=True)
class ProbeSucceeded:
    """A worker answered its probe with 200."""

    worker_id: WorkerId
    incarnation: int


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    """A worker's probe failed.

    in_flight: leases it holds; a busy worker's time-out is excused for a while.
    answered_s: instant at which it last completed a reply to work (`Scheduler.answered_s`).
    """

    worker_id: WorkerId
    incarnation: int
    failure: ProbeFailure
    in_flight: int = 0
    answered_s: float | None = None


@dataclass(frozen=True, slots=True)
class WorkFailed:
    """Work could not reach a worker, or its connection died.

    failure: REFUSED or ENGINE_DIED are failures at once; None, as for a broken connection, asks for a probe.
    """

    worker_id: WorkerId
    incarnation: int
    failure: ProbeFailure | None


@dataclass(frozen=True, slots=True)
class WorkKeptFailing:
    """A worker failed its work again and again while another did the same kind well (core/blackhole.py)."""

    worker_id: WorkerId
    incarnation: int


@dataclass(frozen=True, slots=True)
class WorkFoundAsleep:
    """A worker answered work with "sleeping". granted_s: instant of that work's lease."""

    worker_id: WorkerId
    incarnation: int
    granted_s: float


@dataclass(frozen=True, slots=True)
class SentinelOpened:
    """The silent connection to a worker stands."""

    worker_id: WorkerId
    incarnation: int


@dataclass(frozen=True, slots=True)
class SentinelEnded:
    """The silent connection to a worker has ended just now; `SentinelLost` follows and says what that means."""

    worker_id: WorkerId
    incarnation: int


@dataclass(frozen=True, slots=True)
class SentinelLost:
    """The silent connection to a worker ended, or could not be opened.

    connections: other connections to it that are still open; with any, it was only a cut.
    """

    worker_id: WorkerId
    incarnation: int
    connections: int


@dataclass(frozen=True, slots=True)
class WeightsChecked:
    """A worker's checksums were compared with the ledger's.

    updates, sequence: its count, and that of its group's targets, when it was asked.
    """

    worker_id: WorkerId
    incarnation: int
    updates: int
    matches: bool
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """A worker's process has ended, for certain. reason: what its holders are told."""

    worker_id: WorkerId
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerRestarted:
    """Another process answers at a worker's address, for certain."""

    worker_id: WorkerId
    incarnation: int


@dataclass(frozen=True, slots=True)
class WorkerDrained:
    """A draining worker's last lease has ended, or it had none."""

    worker_id: WorkerId
    incarnation: int


# How a remote command ended. The id says which, and a late answer changes nothing.


@dataclass(frozen=True, slots=True)
class CommandSucceeded:
    """The worker did it."""

    worker_id: WorkerId
    command_id: int


@dataclass(frozen=True, slots=True)
class CommandRefused:
    """The worker said no; `success: false` in a 200 counts.

    unchanged: of a refit, whether its checksums are as before; None if nobody could tell.
    differs: of a resync without a target, whether it was seen to have other weights than its peers.
    """

    worker_id: WorkerId
    command_id: int
    reason: str
    unchanged: bool | None = None
    differs: bool = False


@dataclass(frozen=True, slots=True)
class CommandLost:
    """No answer came: whether the worker did it is unknown."""

    worker_id: WorkerId
    command_id: int
    reason: str


Asked = (
    RemovalRequested
    | HoldRequested
    | RefitRequested
    | WeightsReported
    | SleepRequested
    | WakeRequested
    | QuarantineRequested
    | QuarantineLifted
    | MaxConcurrencySet
    | LabelsSet
)

Seen = (
    CapabilityLearned
    | ProbeSucceeded
    | ProbeFailed
    | WorkFailed
    | WorkKeptFailing
    | WorkFoundAsleep
    | SentinelOpened
    | SentinelEnded
    | SentinelLost
    | WeightsChecked
    | WorkerDied
    | WorkerRestarted
    | WorkerDrained
)

Ended = CommandSucceeded | CommandRefused | CommandLost

FleetWide = WorkerRegistered | WorkerRestored | LedgerRestored | RefitOpened | RefitClosed | ChecksumsRead
"""What speaks of no registered worker, or of many."""

Event = FleetWide | Asked | Seen | Ended
