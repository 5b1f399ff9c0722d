"""What becomes of a worker's place: its phases as a table, and when a worker that died is started again."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


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
