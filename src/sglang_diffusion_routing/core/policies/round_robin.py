"""One worker after the other."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Set as AbstractSet

from sglang_diffusion_routing.core.line import Order
from sglang_diffusion_routing.core.policies.policy import Chance
from sglang_diffusion_routing.core.station import LoadBuckets, Look, Station
from sglang_diffusion_routing.core.worker import WorkerId


class RoundRobin:
    """The worker whose turn is longest past, whatever the load; one that was full rejoins behind the others."""

    __slots__ = ("_turns",)
    order = Order.ARRIVAL
    weighs = False

    def __init__(self, rng: Chance) -> None:
        """Chance plays no part."""
        self._turns: OrderedDict[Station, None] = OrderedDict()

    def entered(self, station: Station) -> None:
        self._turns[station] = None

    def left(self, station: Station) -> None:
        del self._turns[station]

    def choose(self, free: LoadBuckets, avoid: AbstractSet[WorkerId], cost: float, now_s: float, look: Look) -> Station:
        chosen = next(station for station in self._turns if station.worker.worker_id not in avoid)
        self._turns.move_to_end(chosen)
        return chosen
