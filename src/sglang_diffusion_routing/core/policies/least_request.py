"""The worker with the least work."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from sglang_diffusion_routing.core.line import Order
from sglang_diffusion_routing.core.policies.policy import Chance
from sglang_diffusion_routing.core.station import LoadBuckets, Look, Station
from sglang_diffusion_routing.core.worker import WorkerId


class LeastRequest:
    """argmin over workers of load, in pieces of work.

    A tie goes to the worker that has waited longest: whose load has been what it is for the longest time. That gives
    idle workers their turns, and of two workers with one piece each it takes the one that began its piece first.
    """

    __slots__ = ()
    order = Order.ARRIVAL
    weighs = False

    def __init__(self, rng: Chance) -> None:
        """Chance plays no part."""

    def entered(self, station: Station) -> None:
        """The order by load is all that is needed."""

    def left(self, station: Station) -> None:
        """The order by load is all that is needed."""

    def choose(self, free: LoadBuckets, avoid: AbstractSet[WorkerId], cost: float, now_s: float, look: Look) -> Station:
        if not avoid:
            return free.first()
        return next(station for station in free if station.worker.worker_id not in avoid)
