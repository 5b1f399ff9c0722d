"""What can be read off the queue and the workers, for whoever only looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sglang_diffusion_routing.core.cost import CostBook
from sglang_diffusion_routing.core.experience import Experience
from sglang_diffusion_routing.core.hedge import Hedges
from sglang_diffusion_routing.core.lanes import Lanes
from sglang_diffusion_routing.core.queue import Queue
from sglang_diffusion_routing.core.room import Holding
from sglang_diffusion_routing.core.speed import Speed
from sglang_diffusion_routing.core.stations import Stations
from sglang_diffusion_routing.core.work import Lease
from sglang_diffusion_routing.core.worker import WorkerId


class Readings:
    """The scheduler's parts, and what they show. Nothing here changes anything.

    model_matters: whether workers serve different models, or may, so that the model that a request names must be known.
    hedges: which work is worth a copy, and where.
    """

    def __init__(self, lanes: Lanes, queue: Queue, stations: Stations, experience: Experience) -> None:
        self._lanes = lanes
        self._queue = queue
        self._stations = stations
        self._by_id, self._by_worker = stations.by_id, stations.by_worker
        self._experience = experience
        self.model_matters = False
        self.hedges = Hedges(lanes, stations.by_worker, queue)

    @property
    def queued(self) -> int:
        return self._queue.count

    @property
    def queued_bytes(self) -> int:
        return self._queue.size_bytes

    def most_queued(self, count: int) -> list[Holding]:
        """Give what waits of the tenants with most requests waiting."""
        return self._queue.room.largest(count)

    @property
    def queued_since_s(self) -> float | None:
        """The instant since which the oldest of what waits has waited, None while nothing does."""
        return self._lanes.oldest_s()

    def in_flight(self, worker_id: WorkerId) -> int:
        """Count a worker's live leases; 0 for one that is not here."""
        station = self._by_id.get(worker_id)
        return 0 if station is None else len(station.leases)

    def leases_ended(self) -> list[int]:
        """Count the leases that have ended, by result; those of workers that have left as well."""
        rows = [row for station in self._by_worker.values() for row in station.ended.values()]
        return [sum(numbers) for numbers in zip(self._stations.past, *rows, strict=True)]

    def ended(self, worker_id: WorkerId) -> Mapping[str, Sequence[int]]:
        """Give how many of a worker's leases have ended, by route and then by result."""
        station = self._by_id.get(worker_id)
        return {} if station is None else station.ended

    def leases_of(self, worker_id: WorkerId) -> list[Lease]:
        """Give a worker's live leases, oldest first; also of one just removed."""
        station = self._by_id.get(worker_id)
        return [] if station is None else list(station.leases.values())

    def answered_s(self, worker_id: WorkerId) -> float | None:
        """Give the instant at which a worker last completed a reply."""
        station = self._by_id.get(worker_id)
        return None if station is None else station.answered_s

    @property
    def costs(self) -> CostBook:
        """What work usually costs, by route and model."""
        return self._experience.costs

    def speed_of(self, worker_id: WorkerId) -> Speed | None:
        """Give what is learned of a worker's speed; None for one that is not here."""
        station = self._by_id.get(worker_id)
        return None if station is None else station.speed

    def ramp_of(self, worker_id: WorkerId) -> int | None:
        """Give what bounds the work of a worker that has yet to show that it works well; None when nothing does."""
        station = self._by_id.get(worker_id)
        return None if station is None else self._stations.ramp_of(station)

    def next_deadline_s(self) -> float | None:
        """Give the instant at which `expire` may have something to do."""
        return self._queue.next_deadline_s()
