"""A worker's state: three facts, and the table that moves them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, IntEnum


class WorkerState(Enum):
    """What the worker is doing, as far as the router has told it to."""

    ACTIVE = "active"
    DRAINING = "draining"
    UPDATING = "updating"
    RELEASING = "releasing"
    SLEEPING = "sleeping"
    RESUMING = "resuming"
    REMOVED = "removed"


COMMANDED = frozenset({WorkerState.UPDATING, WorkerState.RELEASING, WorkerState.RESUMING})
"""States in which the worker carries out one remote command, named by its command id."""


class Health(Enum):
    """Whether the worker answers."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    QUARANTINED = "quarantined"


class Intent(IntEnum):
    """Why a worker drains; a stronger intent replaces a weaker one."""

    HOLD = 1
    REFIT = 2
    SLEEP = 3
    REMOVE = 4


class Trigger(Enum):
    """What moves a worker: the first seven are asked for, the others happen."""

    HOLD = "hold"
    REFIT = "refit"
    REFIT_NOW = "refit now"
    SLEEP = "sleep"
    REMOVE = "remove"
    FORCE_REMOVE = "force remove"
    WAKE = "wake"
    DRAINED = "drained"
    DRAIN_EXPIRED = "drain expired"
    SUCCEEDED = "succeeded"
    REFUSED = "refused"
    LOST = "lost"
    FOUND_ASLEEP = "found asleep"
    FOUND_AWAKE = "found awake"


INTENT_OF: Mapping[Trigger, Intent] = {
    Trigger.HOLD: Intent.HOLD,
    Trigger.REFIT: Intent.REFIT,
    Trigger.REFIT_NOW: Intent.REFIT,
    Trigger.SLEEP: Intent.SLEEP,
    Trigger.REMOVE: Intent.REMOVE,
}


class Effect(Enum):
    """What a move brings with it besides the new state."""

    ANNOUNCE_DRAIN = "announce drain"
    UPDATE_WEIGHTS = "update weights"
    RELEASE_MEMORY = "release memory"
    RESUME_MEMORY = "resume memory"
    CANCEL_LEASES = "cancel leases"
    QUARANTINE = "quarantine"
    RECOVER = "recover"


class Fate(Enum):
    """What a move means for an order.

    BEGUN, JOINED, WAITS and DONE speak of the order that asks; one that it pushes aside is superseded.
    KEPT, DONE, REFUSED, LOST and EXPIRED speak of the order being carried out when something happens.
    """

    BEGUN = "begun"
    JOINED = "joined"
    WAITS = "waits"
    KEPT = "kept"
    DONE = "done"
    REFUSED = "refused"
    LOST = "lost"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Move:
    """A row of the table: where the worker goes and what comes with it."""

    state: WorkerState
    fate: Fate
    intent: Intent | None = None
    effects: tuple[Effect, ...] = ()


Phase = tuple[WorkerState, Intent | None]
"""A state; for DRAINING with its intent."""

_DRAIN = (Effect.ANNOUNCE_DRAIN,)
_CANCEL = (Effect.CANCEL_LEASES,)
_QUARANTINE = (Effect.QUARANTINE,)

_REMOVED_BY_FORCE = Move(WorkerState.REMOVED, Fate.DONE, effects=_CANCEL)
_WOKEN = Move(WorkerState.ACTIVE, Fate.DONE)
_TIME_IS_UP = Move(WorkerState.ACTIVE, Fate.EXPIRED)
_TO_HOLD = Move(WorkerState.DRAINING, Fate.BEGUN, Intent.HOLD)
_TO_REFIT = Move(WorkerState.DRAINING, Fate.BEGUN, Intent.REFIT)
_TO_REFIT_NOW = Move(WorkerState.UPDATING, Fate.BEGUN, effects=(Effect.UPDATE_WEIGHTS,))
_TO_SLEEP = Move(WorkerState.DRAINING, Fate.BEGUN, Intent.SLEEP)
_TO_REMOVE = Move(WorkerState.DRAINING, Fate.BEGUN, Intent.REMOVE)


def _stays(state: WorkerState, fate: Fate, intent: Intent | None = None) -> Move:
    return Move(state, fate, intent)


TABLE: Mapping[Phase, Mapping[Trigger, Move]] = {
    (WorkerState.ACTIVE, None): {
        Trigger.HOLD: replace(_TO_HOLD, effects=_DRAIN),
        Trigger.REFIT: replace(_TO_REFIT, effects=_DRAIN),
        Trigger.REFIT_NOW: _TO_REFIT_NOW,
        Trigger.SLEEP: replace(_TO_SLEEP, effects=_DRAIN),
        Trigger.REMOVE: replace(_TO_REMOVE, effects=_DRAIN),
        Trigger.FORCE_REMOVE: _REMOVED_BY_FORCE,
        Trigger.WAKE: _stays(WorkerState.ACTIVE, Fate.DONE),
        Trigger.FOUND_ASLEEP: Move(WorkerState.SLEEPING, Fate.KEPT),
    },
    # A worker that is found asleep while it drains gets no new work anyway, and what it drains for finds out.
    (WorkerState.DRAINING, Intent.HOLD): {
        Trigger.HOLD: _stays(WorkerState.DRAINING, Fate.JOINED, Intent.HOLD),
        Trigger.REFIT: _TO_REFIT,
        Trigger.REFIT_NOW: _TO_REFIT_NOW,
        Trigger.SLEEP: _TO_SLEEP,
        Trigger.REMOVE: _TO_REMOVE,
        Trigger.FORCE_REMOVE: _REMOVED_BY_FORCE,
        Trigger.WAKE: _WOKEN,
        Trigger.DRAINED: _stays(WorkerState.DRAINING, Fate.DONE, Intent.HOLD),
        Trigger.DRAIN_EXPIRED: _TIME_IS_UP,
        Trigger.FOUND_ASLEEP: _stays(WorkerState.DRAINING, Fate.KEPT, Intent.HOLD),
    },
    (WorkerState.DRAINING, Intent.REFIT): {
        Trigger.REFIT: _stays(WorkerState.DRAINING, Fate.JOINED, Intent.REFIT),
        Trigger.REFIT_NOW: _TO_REFIT_NOW,
        Trigger.SLEEP: _TO_SLEEP,
        Trigger.REMOVE: _TO_REMOVE,
        Trigger.FORCE_REMOVE: _REMOVED_BY_FORCE,
        Trigger.WAKE: _WOKEN,
        Trigger.DRAINED: Move(WorkerState.UPDATING, Fate.KEPT, effects=(Effect.UPDATE_WEIGHTS,)),
        Trigger.DRAIN_EXPIRED: _TIME_IS_UP,
        Trigger.FOUND_ASLEEP: _stays(WorkerState.DRAINING, Fate.KEPT, Intent.REFIT),
    },
    (WorkerState.DRAINING, Intent.SLEEP): {
        Trigger.SLEEP: _stays(WorkerState.DRAINING, Fate.JOINED, Intent.SLEEP),
        Trigger.REMOVE: _TO_REMOVE,
        Trigger.FORCE_REMOVE: _REMOVED_BY_FORCE,
        Trigger.WAKE: _WOKEN,
        Trigger.DRAINED: Move(WorkerState.RELEASING, Fate.KEPT, effects=(Effect.RELEASE_MEMORY,)),
        Trigger.DRAIN_EXPIRED: _TIME_IS_UP,
        Trigger.FOUND_ASLEEP: _stays(WorkerState.DRAINING, Fate.KEPT, Intent.SLEEP),
    },
    (WorkerState.DRAINING, Intent.REMOVE): {
        Trigger.REMOVE: _stays(WorkerState.DRAINING, Fate.JOINED, Intent.REMOVE),
        Trigger.FORCE_REMOVE: _REMOVED_BY_FORCE,
        Trigger.WAKE: _WOKEN,
        Trigger.DRAINED: Move(WorkerState.REMOVED, Fate.DONE),
        Trigger.DRAIN_EXPIRED: _REMOVED_BY_FORCE,
        Trigger.FOUND_ASLEEP: _stays(WorkerState.DRAINING, Fate.KEPT, Intent.REMOVE),
    },
    (WorkerState.UPDATING, None): {
        Trigger.HOLD: _stays(WorkerState.UPDATING, Fate.WAITS),
        Trigger.REFIT: _stays(WorkerState.UPDATING, Fate.JOINED),
        Trigger.REFIT_NOW: _stays(WorkerState.UPDATING, Fate.JOINED),
        Trigger.SLEEP: _stays(WorkerState.UPDATING, Fate.WAITS),
        Trigger.REMOVE: _stays(WorkerState.UPDATING, Fate.WAITS),
        Trigger.FORCE_REMOVE: _REMOVED_BY_FORCE,
        Trigger.WAKE: _stays(WorkerState.UPDATING, Fate.WAITS),
        Trigger.SUCCEEDED: Move(WorkerState.ACTIVE, Fate.DONE),
        Trigger.REFUSED: Move(WorkerState.ACTIVE, Fate.REFUSED),
        Trigger.LOST: Move(WorkerState.ACTIVE, Fate.LOST, effects=_QUARANTINE),
        Trigger.FOUND_ASLEEP: _stays(WorkerState.UPDATING, Fate.KEPT),
    },
    (WorkerState.RELEASING, None): {
        Trigger.HOLD: _stays(WorkerState.RELEASING, Fate.WAITS),
        Trigger.REFIT: _stays(WorkerState.RELEASING, Fate.WAITS),
        Trigger.REFIT_NOW: _stays(WorkerState.RELEASING, Fate.WAITS),
        Trigger.SLEEP: _stays(WorkerState.RELEASING, Fate.JOINED),
        Trigger.REMOVE: _stays(WorkerState.RELEASING, Fate.WAITS),
        Trigger.FORCE_REMOVE: _REMOVED_BY_FORCE,
        Trigger.WAKE: _stays(WorkerState.RELEASING, Fate.WAITS),
        Trigger.SUCCEEDED: Move(WorkerState.SLEEPING, Fate.DONE),
        Trigger.REFUSED: Move(WorkerState.ACTIVE, Fate.REFUSED),
        Trigger.LOST: Move(WorkerState.SLEEPING, Fate.LOST, effects=_QUARANTINE),
        Trigger.FOUND_ASLEEP: _stays(WorkerState.RELEASING, Fate.KEPT),
    },
    (WorkerState.SLEEPING, None): {
        Trigger.SLEEP: _stays(WorkerState.SLEEPING, Fate.DONE),
        Trigger.REMOVE: _REMOVED_BY_FORCE,
        Trigger.FORCE_REMOVE: _REMOVED_BY_FORCE,
        Trigger.WAKE: Move(WorkerState.RESUMING, Fate.BEGUN, effects=(Effect.RESUME_MEMORY,)),
        # Its process has been replaced by one that is awake: the router's word is made good.
        Trigger.FOUND_AWAKE: Move(WorkerState.RELEASING, Fate.BEGUN, effects=(Effect.RELEASE_MEMORY,)),
        Trigger.FOUND_ASLEEP: _stays(WorkerState.SLEEPING, Fate.KEPT),
    },
    (WorkerState.RESUMING, None): {
        Trigger.HOLD: _stays(WorkerState.RESUMING, Fate.WAITS),
        Trigger.REFIT: _stays(WorkerState.RESUMING, Fate.WAITS),
        Trigger.REFIT_NOW: _stays(WorkerState.RESUMING, Fate.WAITS),
        Trigger.SLEEP: _stays(WorkerState.RESUMING, Fate.WAITS),
        Trigger.REMOVE: _stays(WorkerState.RESUMING, Fate.WAITS),
        Trigger.FORCE_REMOVE: _REMOVED_BY_FORCE,
        Trigger.WAKE: _stays(WorkerState.RESUMING, Fate.JOINED),
        Trigger.SUCCEEDED: Move(WorkerState.ACTIVE, Fate.DONE, effects=(Effect.RECOVER,)),
        Trigger.REFUSED: Move(WorkerState.SLEEPING, Fate.REFUSED),
        Trigger.LOST: Move(WorkerState.SLEEPING, Fate.LOST, effects=_QUARANTINE),
        Trigger.FOUND_ASLEEP: _stays(WorkerState.RESUMING, Fate.KEPT),
    },
    (WorkerState.REMOVED, None): {},
}
"""Every move there is. A trigger that is not in a phase's row is a conflict, and changes nothing."""
