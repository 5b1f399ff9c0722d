"""How much a worker is given that has yet to show that it can do it."""

from __future__ import annotations

from sglang_diffusion_routing.core.lane import Profile
from sglang_diffusion_routing.core.limits import SchedulerLimits
from sglang_diffusion_routing.core.state import Health
from sglang_diffusion_routing.core.station import Station
from sglang_diffusion_routing.core.work import Lease, Result

FIRST = 1
"""Pieces of work that a worker has at once before it has finished any."""
LAST = 64
"""Pieces at once beyond which nobody has to show anything, whatever the cap."""

_FAILURES = frozenset({Result.SERVER_ERROR, Result.CONNECT_FAILED, Result.DIED, Result.SCHEDULER_DIED})


class Ramps:
    """Workers that are new, or that are back from a failure, an absence or a restart.

    Such a worker may have `FIRST` pieces of work at once, twice as many after each that it has finished well, and half
    as many after each that it has failed, until it has come to its cap or to `LAST`. TCP's slow start (RFC 5681 §3.1)
    opens its window so; HAProxy's `slowstart` and Envoy's `slow_start_config` go by time, which says nothing of a
    worker whose pieces take minutes.

    A ramp holds only if at least half of the open workers of the same kind had none when it began, and only while that
    is so. When a whole fleet starts there is nobody to give the work to instead, and it would only wait; nor does it
    matter then who is the first to finish something. (Envoy heeds no health when less than half of a cluster has any:
    its panic threshold.)

    held: the open stations whose ramps hold.
    """

    def __init__(self, limits: SchedulerLimits, held: dict[Station, None]) -> None:
        self._limits = limits
        self._kinds: dict[Profile, _Kind] = {}
        self._kind_of: dict[Station, _Kind] = {}
        self.held = held

    def cap_of(self, station: Station) -> int:
        """Give the load at which a station is given no more work."""
        cap = self._limits.cap_of(station.worker)
        return cap if station.ramp is None or station not in self.held else min(cap, station.ramp)

    def look_at(self, station: Station, *, opens: bool) -> bool:
        """Begin a ramp if the worker is new, was out, or may be another process than it was.

        Sleep and refits begin none: the worker did well before.

        Args:
            opens: whether it may take work. What merely looked like a restart has been cleared up by then.

        Returns:
            Whether a ramp begins, so that it has to be seated anew.
        """
        worker = station.worker
        replaced = opens and worker.doubted_s > station.doubted_s
        if not self._limits.ramp or not (replaced or worker.health is not Health.HEALTHY):
            return False
        if replaced or not opens:
            station.is_late = None
        begins = station.ramp != FIRST
        station.ramp, station.doubted_s = FIRST, worker.doubted_s
        return begins

    def seat(self, station: Station, kind: Profile | None) -> list[Station]:
        """Note of which kind an open station is; None for one that is not open.

        Returns:
            The stations whose caps are others now, itself apart.
        """
        changed = self._leave(station)
        if kind is not None:
            joined = self._kind_of[station] = self._kinds.setdefault(kind, _Kind(kind))
            joined.open += 1
            if station.ramp is not None:
                joined.ramping[station] = None
                if station.is_late is None and kind.learned:
                    station.is_late = joined.is_proven
            changed += self._review(joined, station)
        return [other for other in dict.fromkeys(changed) if other is not station]

    def ended(self, station: Station, lease: Lease, result: Result, status: int) -> list[Station]:
        """Take in how a piece of work has ended on a station with a ramp.

        Args:
            status: of the worker's reply, 0 when there was none.

        Returns:
            The stations whose caps are others now.
        """
        if station.ramp is None or lease.spec.skips_queue:
            return []
        if lease.done_s is not None if lease.spec.creates_job else 200 <= status < 300:
            return self._climb(station, 2 * station.ramp)
        if result in _FAILURES:
            station.ramp = max(station.ramp // 2, FIRST)
            return [station] if station in self.held else []
        return []

    def _climb(self, station: Station, ramp: int) -> list[Station]:
        changed = [station] if station in self.held else []
        if ramp < min(self._limits.cap_of(station.worker), LAST):
            station.ramp = ramp
            return changed
        station.ramp = None
        self.held.pop(station, None)
        kind = self._kind_of.get(station)
        if kind is not None:
            del kind.ramping[station]
            changed += self._review(kind)
        return changed

    def _leave(self, station: Station) -> list[Station]:
        kind = self._kind_of.pop(station, None)
        if kind is None:
            return []
        kind.open -= 1
        kind.ramping.pop(station, None)
        self.held.pop(station, None)
        if not kind.open:
            del self._kinds[kind.profile]
        return self._review(kind)

    def _review(self, kind: _Kind, seated: Station | None = None) -> list[Station]:
        """Hold the ramps of a kind, or let them all go, and give those for which that is new.

        Args:
            seated: the one of them that has just come. The others are as they were while the kind is.
        """
        is_proven = kind.is_proven
        if is_proven is not kind.was_proven:
            kind.was_proven = is_proven
            looked_at = list(kind.ramping)
        else:
            looked_at = [seated] if seated in kind.ramping else []
        changed = []
        for station in looked_at:
            holds = is_proven and station.is_late is True
            if holds is not (station in self.held):
                changed.append(station)
                if holds:
                    self.held[station] = None
                else:
                    del self.held[station]
        return changed


class _Kind:
    """The open stations that can do the same.

    open: how many there are. ramping: those of them with a ramp. was_proven: what it was when all were last looked at.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.open = 0
        self.ramping: dict[Station, None] = {}
        self.was_proven = False

    @property
    def is_proven(self) -> bool:
        """Whether at least half of them have no ramp."""
        return 2 * len(self.ramping) <= self.open
