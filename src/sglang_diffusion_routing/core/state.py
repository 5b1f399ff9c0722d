"""A worker's state: three facts, and the tables that move them."""

from __future__ import annotations

from enum import Enum, IntEnum


class WorkerState(Enum):
    ACTIVE = "active"
    DRAINING = "draining"
    UPDATING = "updating"
    RELEASING = "releasing"
    SLEEPING = "sleeping"
    RESUMING = "resuming"
    REMOVED = "removed"


class Health(Enum):
    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    QUARANTINED = "quarantined"


class Intent(IntEnum):
    """Why a worker drains; a stronger intent replaces a weaker one."""

    HOLD = 1
    REFIT = 2
    SLEEP = 3
    REMOVE = 4
