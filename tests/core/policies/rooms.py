"""A policy with the stations that it chooses among, kept as a lane keeps them."""

from __future__ import annotations

from core.fleet import url, worker_id
from sglang_diffusion_routing.core.lane import Lane, LaneKey
from sglang_diffusion_routing.core.limits import NO_CAP
from sglang_diffusion_routing.core.policies import Chance, make_policy
from sglang_diffusion_routing.core.station import Station
from sglang_diffusion_routing.core.worker import Worker


class Rooms:
    """Stations by name. cap: 0 for none."""

    def __init__(self, policy: str, rng: Chance, cap: int = 0) -> None:
        self.lane = Lane(LaneKey(frozenset(), frozenset()), make_policy(policy, rng))
        self.stations: dict[str, Station] = {}
        self._cap = cap or NO_CAP

    def enter(self, name: str, load: int = 0) -> None:
        if name in self.stations:
            return
        station = self.stations[name] = Station(Worker(worker_id(name), url(name), 1, registered_s=0.0))
        station.cap, station.load = self._cap, load
        self.lane.add(station)

    def leave(self, name: str) -> None:
        self.lane.remove(self.stations.pop(name))

    def choose(self, *avoid: str) -> str:
        """Choose, and give the work."""
        station = self.lane.choose(frozenset(worker_id(name) for name in avoid), creates_job=False)
        assert station is not None
        station.load += 1
        self.lane.grew(station)
        return station.worker.url.host

    def end(self, name: str) -> None:
        """A piece of work ends."""
        station = self.stations[name]
        station.load -= 1
        self.lane.shrank(station)
