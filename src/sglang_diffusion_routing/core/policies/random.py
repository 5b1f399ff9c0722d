"""Any worker."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from sglang_diffusion_routing.core.line import Order
from sglang_diffusion_routing.core.policies.policy import Chance
from sglang_diffusion_routing.core.policies.seats import Seats
from sglang_diffusion_routing.core.station import LoadBuckets, Look, Station
from sglang_diffusion_routing.core.worker import WorkerId


class Random:
    """Every worker that has room with the same probability."""

    __slots__ = ("_rng", "_seats")
    order = Order.ARRIVAL
    weighs = False

    def __init__(self, rng: Chance) -> None:
        self._rng = rng
        self._seats = Seats()

    def entered(self, station: Station) -> None:
        self._seats.add(station)

    def left(self, station: Station) -> None:
        self._seats.remove(station)

    def choose(self, free: LoadBuckets, avoid: AbstractSet[WorkerId], cost: float, now_s: float, look: Look) -> Station:
        stations = self._seats.without(avoid)
        return stations[int(self._rng.random() * len(stations))]
