"""A worker as the router knows it: the record that only the pool writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NewType

from sglang_diffusion_routing.core.address import refused_address
from sglang_diffusion_routing.core.health import Vitals
from sglang_diffusion_routing.core.state import Health, Intent, Trigger, WorkerState
from sglang_diffusion_routing.core.weights import Currency, Loaded, Unversioned, shown_version
from sglang_diffusion_routing.core.worker_url import WorkerUrl

__all__ = [
    "Capability",
    "Order",
    "Standing",
    "Watch",
    "Worker",
    "WorkerId",
    "WorkerStatus",
    "WorkerUrl",
    "refused_address",
    "standing",
    "status",
]

WorkerId = NewType("WorkerId", str)
"""The canonical worker URL, as `str(WorkerUrl)`."""

RequestId = NewType("RequestId", str)
"""Names whoever asked for a change and waits for its end."""

DRAIN_LIMIT_S = 1_800.0
"""How long a drain may take unless its order says otherwise."""


@dataclass(frozen=True, slots=True)
class Capability:
    """What a worker makes: `supported_task_types` (and `task_type`) of its GET /v1/models, and the ids it serves.

    task_types: None while unknown, or if the worker does not say.
    models: served model ids.
    learned: whether the worker was asked; until then it may yet prove to make anything.
    """

    task_types: tuple[str, ...] | None = None
    models: tuple[str, ...] = ()
    learned: bool = False

    @property
    def makes_images(self) -> bool | None:
        """Whether a task ends in an image (T2I, I2I, TI2I); None if the tasks are unknown."""
        if self.task_types is None:
            return None
        return any(_ends_in_image(task) for task in self.task_types)

    @property
    def makes_video(self) -> bool | None:
        """Whether there is a task other than those; None if the tasks are unknown."""
        if self.task_types is None:
            return None
        return any(not _ends_in_image(task) for task in self.task_types)


def _ends_in_image(task: str) -> bool:
    return task.strip().upper().endswith("2I")


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked of a worker, and who waits for it.

    trigger: HOLD, REFIT, REFIT_NOW, SLEEP, REMOVE or WAKE.
    requests: who is told how it ended.
    refit_id, version: of a refit; version None while the worker is only compared with its peers.
    resync: the router's own refit of one worker; sequence, unproven: of its group's target when that was asked for.
    drain_limit_s: how long work may take to end.
    """

    trigger: Trigger
    requests: tuple[RequestId, ...] = ()
    refit_id: str | None = None
    version: str | None = None
    drain_limit_s: float = DRAIN_LIMIT_S
    resync: bool = False
    sequence: int = 0
    unproven: bool = False


class Watch(Enum):
    """How the silent connection to a worker stands, whose end is the first news of a restart."""

    NONE = "none"
    OPENING = "opening"
    STANDS = "stands"
    ENDED = "ended"
    """It has just ended, and what that means is being found out."""


@dataclass(slots=True, eq=False)
class Worker:
    """The record of one worker. Only `Pool` assigns to its fields.

    incarnation: unique over all workers; registered anew after its removal, a worker has another.
    since_s: instant of the last change of `state`.
    intent: why it drains; None in any other state.
    order: what is being carried out; next_order: what waits behind the command.
    command_id: the one remote command under way, None unless UPDATING, RELEASING or RESUMING.
    drain_deadline_s: instant at which a drain is given up.
    watch: how its silent connection stands. cut: the last one ended while others to the worker stood.
    restored: it is remembered from an earlier run of the router, and was not seen to be replaced since.
    sleep_first: it is awake while the fleet sleeps, and is put to sleep as soon as it answers.
    max_concurrency: its own cap; None for the router's, 0 for no cap.
    lora_only: of a suspect one, that a LoRA was all that was tried on known weights.
    updates: rises whenever its weights may have changed; updates_begun: as it stood when the refit under way began.
    doubted_s: instant at which its process was last found to have ended, or perhaps to have.
    mends: its weights are not current, but will be without anybody's doing; weights_reason: why they are not.
    resync_failures: resyncs that failed since it was last worth trying; resync_due_s: instant of the next.
    resync_error: how the last one failed.
    """

    worker_id: WorkerId
    url: WorkerUrl
    incarnation: int
    registered_s: float
    state: WorkerState = WorkerState.ACTIVE
    intent: Intent | None = None
    vitals: Vitals = field(default_factory=Vitals)
    capability: Capability = field(default_factory=Capability)
    labels: tuple[tuple[str, str], ...] = ()
    max_concurrency: int | None = None
    loaded: Loaded = Unversioned.BASE
    currency: Currency = Currency.CURRENT
    since_s: float = 0.0
    order: Order | None = None
    next_order: Order | None = None
    command_id: int | None = None
    drain_deadline_s: float | None = None
    watch: Watch = Watch.NONE
    cut: bool = False
    sleep_first: bool = False
    restored: bool = False
    lora_only: bool = False
    updates: int = 0
    updates_begun: int = 0
    doubted_s: float = float("-inf")
    mends: bool = False
    weights_reason: str = ""
    resync_failures: int = 0
    resync_due_s: float = 0.0
    resync_error: str = ""

    @property
    def health(self) -> Health:
        return self.vitals.health

    @property
    def status(self) -> WorkerStatus:
        """The one word that is shown for the worker."""
        return status(self)

    @property
    def weight_version(self) -> str | None:
        """The version that its replies carry, None while it is unknown."""
        return shown_version(self.loaded)

    @property
    def weight_group(self) -> str | None:
        """Label `group`, else the first served model id; None until the worker was asked."""
        for key, value in self.labels:
            if key == "group":
                return value
        if not self.capability.learned:
            return None
        return self.capability.models[0] if self.capability.models else ""


class WorkerStatus(Enum):
    """What is shown of a worker: the first that applies, in this order."""

    REMOVED = "removed"
    DRAINING = "draining"
    QUARANTINED = "quarantined"
    UPDATING = "updating"
    RELEASING = "releasing"
    RESUMING = "resuming"
    SLEEPING = "sleeping"
    JOINING = "joining"
    SUSPECT = "suspect"
    STALE = "stale"
    ACTIVE = "active"


_STATUS_OF_STATE = {
    WorkerState.UPDATING: WorkerStatus.UPDATING,
    WorkerState.RELEASING: WorkerStatus.RELEASING,
    WorkerState.RESUMING: WorkerStatus.RESUMING,
    WorkerState.SLEEPING: WorkerStatus.SLEEPING,
}

_STATUS_OF_CURRENCY = {
    Currency.SUSPECT: WorkerStatus.SUSPECT,
    Currency.STALE: WorkerStatus.STALE,
    Currency.CURRENT: WorkerStatus.ACTIVE,
}


def status(worker: Worker) -> WorkerStatus:
    """Give the status to show: the first that applies (DESIGN order)."""
    if worker.state is WorkerState.REMOVED:
        return WorkerStatus.REMOVED
    if worker.state is WorkerState.DRAINING:
        return WorkerStatus.DRAINING
    if worker.health is Health.QUARANTINED:
        return WorkerStatus.QUARANTINED
    if worker.state in _STATUS_OF_STATE:
        return _STATUS_OF_STATE[worker.state]
    if worker.health is Health.UNKNOWN:
        return WorkerStatus.JOINING
    return _STATUS_OF_CURRENCY[worker.currency]


class Standing(Enum):
    """What a worker is to work that looks for one."""

    ROUTABLE = "routable"
    """ACTIVE, HEALTHY, weights current: takes work."""
    UNPROVEN = "unproven"
    """The same but for its health, which is unknown: takes work only while no worker is routable."""
    COMING = "coming"
    """On its way to being routable: worth waiting for."""
    ASLEEP = "asleep"
    """Takes only what may go to sleeping workers, and is not worth waiting for."""
    AWAY = "away"
    """Takes nothing, and is not worth waiting for."""


_REFITS = frozenset({Trigger.REFIT, Trigger.REFIT_NOW})
_LEADS_AWAY = frozenset({Trigger.HOLD, Trigger.SLEEP, Trigger.REMOVE})


def standing(worker: Worker) -> Standing:
    """Say what a worker is to work that looks for one.

    A worker whose weights are not current is coming while something is there to mend it (a refit under way, or one to
    replay), and away while only the next refit brings it back.
    """
    if worker.health is Health.QUARANTINED or worker.sleep_first:
        return Standing.AWAY
    if worker.state is WorkerState.SLEEPING:
        return Standing.ASLEEP
    if worker.state is WorkerState.ACTIVE:
        return _active_standing(worker)
    return Standing.COMING if _comes_back(worker) else Standing.AWAY


def _active_standing(worker: Worker) -> Standing:
    if worker.currency is not Currency.CURRENT:
        return Standing.COMING if worker.mends else Standing.AWAY
    if worker.watch is Watch.ENDED or (worker.watch is not Watch.STANDS and worker.loaded is not Unversioned.BASE):
        # Its process may be replaced unseen, and another one would not have been refit.
        return Standing.COMING
    return Standing.ROUTABLE if worker.health is Health.HEALTHY else Standing.UNPROVEN


def _comes_back(worker: Worker) -> bool:
    awaited = worker.next_order.trigger if worker.next_order is not None else None
    if awaited in _LEADS_AWAY:
        return False
    match worker.state:
        case WorkerState.DRAINING:
            return worker.intent is Intent.REFIT
        case WorkerState.UPDATING:
            return True
        case WorkerState.RESUMING:
            return _stays_or_mends(worker) or awaited in _REFITS
        case WorkerState.RELEASING:
            return awaited is Trigger.WAKE and _stays_or_mends(worker)
        case _:
            return False


def _stays_or_mends(worker: Worker) -> bool:
    return worker.currency is Currency.CURRENT or worker.mends
