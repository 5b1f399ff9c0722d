"""The rules of a slot, a worker's place: its phases as a table, orders, and when what died is started again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from types import MappingProxyType

from sglang_diffusion_routing.launchers.base import Fact


class Phase(StrEnum):
    """What a slot is about."""

    STARTING = "starting"
    """Its process is being started, or a place for it sought."""
    LOADING = "loading"
    """Its process runs and does not serve yet."""
    READY = "ready"
    """It serves."""
    STOPPING = "stopping"
    """It ends its work, and then its process ends."""
    STOPPED = "stopped"
    """An operator has stopped it; it stays so until it is started."""
    BACKING_OFF = "backing_off"
    """It died, and is started again after a while."""
    WAITING = "waiting"
    """It died, and is started again when the fleet wakes."""
    CRASH_LOOPING = "crash_looping"
    """It died too often; it stays so until it is started."""


class Trigger(StrEnum):
    """What happens to a slot."""

    LAUNCHED = "launched"
    SERVES = "serves"
    DIED = "died"
    LOOPED = "died too often"
    DUE = "due"
    ASLEEP = "the fleet sleeps"
    STOP = "stop"
    ENDED = "ended as asked"
    START = "start"


_P, _T = Phase, Trigger

TABLE = MappingProxyType(
    {
        (_P.STARTING, _T.LAUNCHED): _P.LOADING,
        (_P.STARTING, _T.DIED): _P.BACKING_OFF,
        (_P.STARTING, _T.LOOPED): _P.CRASH_LOOPING,
        (_P.STARTING, _T.STOP): _P.STOPPING,
        (_P.LOADING, _T.SERVES): _P.READY,
        (_P.LOADING, _T.DIED): _P.BACKING_OFF,
        (_P.LOADING, _T.LOOPED): _P.CRASH_LOOPING,
        (_P.LOADING, _T.STOP): _P.STOPPING,
        (_P.READY, _T.DIED): _P.BACKING_OFF,
        (_P.READY, _T.LOOPED): _P.CRASH_LOOPING,
        (_P.READY, _T.STOP): _P.STOPPING,
        (_P.STOPPING, _T.ENDED): _P.STOPPED,
        (_P.STOPPED, _T.START): _P.STARTING,
        (_P.BACKING_OFF, _T.DUE): _P.STARTING,
        (_P.BACKING_OFF, _T.ASLEEP): _P.WAITING,
        (_P.BACKING_OFF, _T.STOP): _P.STOPPED,
        (_P.BACKING_OFF, _T.START): _P.STARTING,
        (_P.WAITING, _T.DUE): _P.STARTING,
        (_P.WAITING, _T.STOP): _P.STOPPED,
        (_P.CRASH_LOOPING, _T.STOP): _P.STOPPED,
        (_P.CRASH_LOOPING, _T.START): _P.STARTING,
    }
)
"""The phase that follows; a pair that is not here does not happen."""

GIVEN_UP = frozenset({Phase.STOPPED, Phase.CRASH_LOOPING})
"""Phases that nothing but an operator ends."""


class Impossible(Exception):
    """A trigger came in a phase in which it cannot."""


def after(phase: Phase, trigger: Trigger) -> Phase:
    """Give the phase that follows.

    Raises:
        Impossible: this does not happen in this phase.
    """
    following = TABLE.get((phase, trigger))
    if following is None:
        raise Impossible(f"{trigger.value} while {phase.value}")
    return following


@dataclass(frozen=True, slots=True)
class RestartLimits:
    """When a worker that died is started again.

    delay_s, delay_max_s: wait after a first death; doubled after each that follows, up to the second.
    deaths: so many in a row are a crash loop.
    window_s: having served for this long ends a row.
    """

    delay_s: float = 1.0
    delay_max_s: float = 60.0
    deaths: int = 5
    window_s: float = 300.0


class Row:
    """A row of deaths: one after the other without a time of serving between them.

    Deaths in a time would not do: a model that loads for minutes and then dies would never have enough of them.
    """

    def __init__(self, limits: RestartLimits) -> None:
        self._limits = limits
        self.deaths = 0

    def died(self, served_s: float) -> float | None:
        """Take in a death; give the wait until the next start, None when there is to be none.

        Args:
            served_s: how long it had served, 0 when it never did.
        """
        limits = self._limits
        if served_s >= limits.window_s:
            self.deaths = 0
        self.deaths += 1
        if self.deaths >= limits.deaths:
            return None
        # 2 ** 30 s is beyond any limit; the exponent is kept from growing for ever.
        return min(limits.delay_s * float(2 ** min(self.deaths - 1, 30)), limits.delay_max_s)

    def forgive(self) -> None:
        """Begin a new row: an operator wants it started."""
        self.deaths = 0


class Order(Enum):
    """What an operator wants of a slot."""

    STOP = "stop"
    START = "start"
    RESTART = "restart"


@dataclass(frozen=True, slots=True)
class SlotView:
    """A slot as people see it.

    url: of the worker that runs, or ran last. restarts: starts after the first. reason: why it is where it is, empty
    while all is well. since_s: instant, on the loop's clock, at which its phase began. tail: the last lines of its log,
    where they say something.
    """

    slot: int
    phase: Phase
    url: str | None
    pid: int | None
    restarts: int
    log: str | None
    reason: str
    since_s: float
    facts: Mapping[str, Fact]
    tail: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited, for a worker that loads (`wait_s`) and for one that is asked to end (`stop_s`)."""

    wait_s: float
    stop_s: float
    restarts: RestartLimits
