"""A policy with the stations that it chooses among, kept as a lane keeps them."""

from __future__ import annotations

from core.fleet import url, worker_id
from sglang_diffusion_routing.core.lane import Lane, LaneKey
from sglang_diffusion_routing.core.limits import NO_CAP
from sglang_diffusion_routing.core.policies import Chance, make_policy
from sglang_diffusion_routing.core.station import Station
from sglang_diffusion_routing.core.work import Lease, WorkSpec
from sglang_diffusion_routing.core.worker import Worker


class Rooms:
    """Stations by name. cap: 0 for none."""

    def __init__(self, policy: str, rng: Chance, cap: int = 0) -> None:
        self.lane = Lane(LaneKey(frozenset(), frozenset()), make_policy(policy, rng))
        self.stations: dict[str, Station] = {}
        self._cap = cap or NO_CAP
        self._leases = 0
        self.now_s = 0.0

    def enter(self, name: str, load: int = 0, speed: float = 0.0) -> None:
        """speed: what was learned of it, in megapixel-steps per second; 0 for nothing."""
        if name in self.stations:
            return
        station = self.stations[name] = Station(Worker(worker_id(name), url(name), 1, registered_s=0.0))
        station.cap = self._cap
        if speed:
            station.speed.learn(speed, 1.0)
        for _ in range(load):
            self._begin(station)
        self.lane.add(station)

    def leave(self, name: str) -> None:
        self.lane.remove(self.stations.pop(name))

    def choose(self, *avoid: str, cost: float = 1.0, job: bool = False) -> str:
        """Choose, and give the work."""
        avoided = frozenset(worker_id(name) for name in avoid)
        station = self.lane.choose(avoided, creates_job=job, cost=cost, now_s=self.now_s)
        assert station is not None
        self._begin(station, cost)
        self.lane.grew(station)
        return station.worker.url.host

    def _begin(self, station: Station, cost: float = 1.0) -> None:
        self._leases += 1
        spec = WorkSpec(cost_mpx_steps=cost)
        station.take(Lease(self._leases, station.worker, spec, self.now_s, 0.0))

    def end(self, name: str) -> None:
        """A piece of work ends."""
        station = self.stations[name]
        station.done_s = self.now_s
        station.drop(next(iter(station.leases.values())))
        self.lane.shrank(station)
