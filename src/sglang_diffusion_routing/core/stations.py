"""Where the workers stand: which are open to work, and which lanes each of them serves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sglang_diffusion_routing.core.experience import Experience
from sglang_diffusion_routing.core.lane import Profile
from sglang_diffusion_routing.core.lanes import Lanes
from sglang_diffusion_routing.core.limits import SchedulerLimits
from sglang_diffusion_routing.core.ramp import Ramps
from sglang_diffusion_routing.core.state import WorkerState
from sglang_diffusion_routing.core.station import Station
from sglang_diffusion_routing.core.work import Lease, Result
from sglang_diffusion_routing.core.worker import Standing, Worker, WorkerId, standing

_OPEN = frozenset({Standing.ROUTABLE, Standing.UNPROVEN})


@dataclass(frozen=True, slots=True)
class Change:
    """What a look at workers' records has changed. moved: whether any station; removed: whether one for good."""

    moved: bool
    removed: bool


class Stations:
    """One station for each worker, from its registration to the end of its last lease.

    past: leases that have ended on those that are forgotten, by result.
    """

    def __init__(self, lanes: Lanes, limits: SchedulerLimits, experience: Experience) -> None:
        self._lanes = lanes
        self._ramps = Ramps(limits, lanes.held)
        self._experience = experience
        self._routable: set[Station] = set()
        self._unproven: dict[Station, None] = {}
        self.past = [0] * len(Result)
        self.by_worker: dict[Worker, Station] = {}
        self.by_id: dict[WorkerId, Station] = {}

    def refresh(self, workers: Iterable[Worker]) -> Change:
        """Put the stations of these workers where their records say; a worker that is new gets one."""
        moved = removed = False
        for worker in workers:
            if worker.state is not WorkerState.REMOVED:
                moved |= self._place(worker)
            elif (station := self.by_worker.get(worker)) is not None and not station.gone:
                self._leave(station)
                moved = removed = True
        if moved:
            self._open_or_close_unproven()
        return Change(moved, removed)

    def ended(self, station: Station, lease: Lease, result: Result, status: int) -> None:
        """Give a station with a ramp more room, or less, for how a piece of its work has ended."""
        self._recap(self._ramps.ended(station, lease, result, status))

    def ramp_of(self, station: Station) -> int | None:
        """Give how much a station may have at once as long as its ramp holds, None while none does."""
        return self._ramps.cap_of(station) if station in self._ramps.held else None

    def forget(self, station: Station) -> None:
        """Forget a station that is gone, now that nothing is left on it."""
        self.past = [sum(numbers) for numbers in zip(self.past, *station.ended.values(), strict=True)]
        del self.by_worker[station.worker]
        if self.by_id.get(station.worker.worker_id) is station:
            del self.by_id[station.worker.worker_id]

    def _place(self, worker: Worker) -> bool:
        """Put a worker where it now belongs; False if it is there."""
        station = self.by_worker.get(worker)
        if station is None:
            station = Station(worker, self._experience.speed_of(worker))
            self.by_worker[worker] = self.by_id[worker.worker_id] = station
        elif worker.capability.models:
            # A worker that was started anew has not been asked yet, and is most probably what it was.
            station.speed = self._experience.speed_of(worker)
        stands = standing(worker)
        starts_over = self._ramps.look_at(station, opens=stands in _OPEN)
        if not starts_over and self._lanes.belongs(station, standing=stands, cap=self._ramps.cap_of(station)):
            return False
        self._routable.discard(station)
        self._unproven.pop(station, None)
        if stands is Standing.ROUTABLE:
            self._routable.add(station)
        elif stands is Standing.UNPROVEN:
            self._unproven[station] = None
        is_open = station in self._routable or (station in self._unproven and not self._routable)
        self._put(station, stands, is_open=is_open)
        return True

    def _put(self, station: Station, stands: Standing, *, is_open: bool) -> None:
        kind = Profile.of(station.worker.capability) if is_open else None
        others = self._ramps.seat(station, kind)
        self._lanes.place(station, standing=stands, cap=self._ramps.cap_of(station), is_open=is_open)
        self._recap(others)

    def _recap(self, stations: Iterable[Station]) -> None:
        for station in stations:
            cap = self._ramps.cap_of(station)
            if cap != station.cap:
                self._lanes.place(station, standing=station.standing, cap=cap, is_open=station.open)

    def _open_or_close_unproven(self) -> None:
        """While nobody is routable, unproven workers are tried rather than none."""
        is_open = not self._routable
        for station in self._unproven:
            if station.open is not is_open:
                self._put(station, station.standing, is_open=is_open)

    def _leave(self, station: Station) -> None:
        self._routable.discard(station)
        self._unproven.pop(station, None)
        others = self._ramps.seat(station, None)
        self._lanes.remove(station)
        self._recap(others)
        station.open = False
        station.gone = True
        if not station.leases:
            self.forget(station)
