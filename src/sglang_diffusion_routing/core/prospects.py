"""Whether work has something to wait for, and what it is told when it has not."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, islice
from math import ceil

from sglang_diffusion_routing.core.demands import Demands
from sglang_diffusion_routing.core.lane import Lane
from sglang_diffusion_routing.core.lanes import HOPEFUL, Lanes
from sglang_diffusion_routing.core.station import Station
from sglang_diffusion_routing.core.work import LineKey, Ticket, WorkSpec
from sglang_diffusion_routing.core.worker import WorkerId, WorkerStatus
from sglang_diffusion_routing.errors import (
    NoCapableWorker,
    NoRoutableWorker,
    QueueFull,
    QueueTimeout,
    RouterError,
    WeightsUnmet,
    WorkerUnavailable,
)

SOONEST_S, LATEST_S = 1, 60
"""Bounds of the time after which to ask again: trainers do so 60 times, and the queue may empty itself."""
LOOK = 64
"""Workers whose speed and work are looked at one by one; what more there are is taken to be like these."""


class Prospects:
    """Judges by what the scheduler has: its lanes, its stations by worker, the demands of its work."""

    def __init__(self, lanes: Lanes, stations: Mapping[WorkerId, Station], demands: Demands) -> None:
        self._lanes = lanes
        self._stations = stations
        self._demands = demands

    def has_hope(self, lane: Lane, key: LineKey) -> bool:
        """Tell whether a worker that may do the lane's work, and is not to be avoided, is routable or on its way.

        What weights it has is no matter: they may rise.
        """
        avoid = key.avoid
        if key.bound is not None:
            bound = self._stations.get(key.bound)
            hopeful = bound is not None and lane in bound.hopes and bound.standing in HOPEFUL
            return hopeful and key.bound not in avoid
        if not avoid:
            return lane.hope > 0
        avoided = (self._stations.get(worker_id) for worker_id in avoid)
        return lane.hope > sum(s is not None and lane in s.hopes and s.standing in HOPEFUL for s in avoided)

    def in_vain(self, lane: Lane, spec: WorkSpec) -> RouterError:
        """Say why work without hope has none."""
        if spec.worker is not None:
            station = self._stations.get(spec.worker)
            if station is not None and not station.gone and lane not in station.hopes:
                return NoCapableWorker(spec.needs.value, spec.worker)
            return WorkerUnavailable(spec.worker, self._status(spec.worker))
        if not self._lanes.capable(spec.needs):
            return NoCapableWorker(spec.needs.value)
        return NoRoutableWorker(self._lanes.by_status(lane))

    def full(self, lane: Lane, count: int, bound: str, now_s: float) -> QueueFull:
        """Tell whoever finds no room in the queue when to come back."""
        return QueueFull(count, bound, self.done_in_s(lane, now_s), self._lanes.by_status(lane))

    def done_in_s(self, lane: Lane, now_s: float) -> int:
        """Give the seconds in which the lane's workers will have done what they have and what waits, within bounds.

        While no worker's speed is known, and while none takes work, nobody can tell: then it is the lower bound.
        """
        looked_at = list(islice(chain(lane.free, lane.full), LOOK))
        if not any(station.speed.per_s for station in looked_at):
            return SOONEST_S
        share = len(looked_at) / (lane.free.size + lane.full.size)
        work = lane.lines.work * share + sum(station.backlog(now_s) for station in looked_at)
        seconds = work / sum(station.speed.expected for station in looked_at)
        return min(max(ceil(seconds), SOONEST_S), LATEST_S)

    def overdue(self, lane: Lane, ticket: Ticket, now_s: float) -> RouterError | None:
        """Say why a ticket whose time has come is to wait no longer; None if it may, for room."""
        spec, key = ticket.spec, ticket.key
        waited_s = now_s - ticket.enqueued_s
        by_status = self._lanes.by_status(lane) if spec.worker is None else {self._status(spec.worker): 1}
        # What a group has come to is a matter of the refit under way, which ends one way or the other.
        if spec.min_version is not None and not self._is_met(lane, key._replace(floor=())):
            return WeightsUnmet(spec.min_version, self._demands.targets(), waited_s, by_status)
        if spec.deadline_s is not None and spec.deadline_s <= now_s:
            return QueueTimeout(waited_s, by_status, spec.worker)
        return None

    def _is_met(self, lane: Lane, key: LineKey) -> bool:
        """Tell whether a worker that takes work, be it full, has the weights that are demanded."""
        avoid = self._demands.avoid(key)
        if key.bound is None:
            return lane.least(avoid) is not None
        station = self._stations.get(key.bound)
        return station is not None and station.open and lane in station.lanes and key.bound not in avoid

    def _status(self, worker_id: WorkerId) -> str:
        station = self._stations.get(worker_id)
        return WorkerStatus.REMOVED.value if station is None else station.worker.status.value
