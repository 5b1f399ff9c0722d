"""Whether work has something to wait for, and what it is told when it has not."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from sglang_diffusion_routing.core.demands import Demands
from sglang_diffusion_routing.core.lane import Lane
from sglang_diffusion_routing.core.lanes import HOPEFUL, Lanes
from sglang_diffusion_routing.core.station import Station
from sglang_diffusion_routing.core.work import Ticket, WorkSpec
from sglang_diffusion_routing.core.worker import WorkerId
from sglang_diffusion_routing.errors import (
    NoCapableWorker,
    NoRoutableWorker,
    QueueTimeout,
    RouterError,
    WeightsUnmet,
)


class Prospects:
    """Judges by what the scheduler has: its lanes, its stations by worker, the demands of its work."""

    def __init__(self, lanes: Lanes, stations: Mapping[WorkerId, Station], demands: Demands) -> None:
        self._lanes = lanes
        self._stations = stations
        self._demands = demands

    def has_hope(self, lane: Lane, avoid: AbstractSet[WorkerId]) -> bool:
        """Tell whether a worker that may do the lane's work, and is not to be avoided, is routable or on its way.

        What weights it has is no matter: they may rise.
        """
        if not avoid:
            return lane.hope > 0
        avoided = (self._stations.get(worker_id) for worker_id in avoid)
        return lane.hope > sum(s is not None and lane in s.hopes and s.standing in HOPEFUL for s in avoided)

    def in_vain(self, lane: Lane, spec: WorkSpec) -> RouterError:
        """Say why work without hope has none."""
        if not self._lanes.capable(spec.needs):
            return NoCapableWorker(spec.needs.value)
        return NoRoutableWorker(self._lanes.by_status(lane))

    def overdue(self, lane: Lane, ticket: Ticket, now_s: float) -> RouterError | None:
        """Say why a ticket whose time has come is to wait no longer; None if it may, for room."""
        spec = ticket.spec
        waited_s, by_status = now_s - ticket.enqueued_s, self._lanes.by_status(lane)
        if spec.min_version is not None and lane.least(self._demands.avoid(spec)) is None:
            return WeightsUnmet(spec.min_version, self._demands.targets(), waited_s, by_status)
        if spec.deadline_s is not None and spec.deadline_s <= now_s:
            return QueueTimeout(waited_s, by_status)
        return None
