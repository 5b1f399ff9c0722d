"""The better of two workers."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from sglang_diffusion_routing.core.line import Order
from sglang_diffusion_routing.core.policies.policy import Chance
from sglang_diffusion_routing.core.policies.seats import Seats
from sglang_diffusion_routing.core.station import LoadBuckets, Look, Station
from sglang_diffusion_routing.core.worker import WorkerId


class PowerOfTwo:
    """Two different workers are drawn; argmin over both of load, in pieces of work; a tie goes to the first drawn.

    Two choices instead of one take the largest load from log n / log log n to log log n
    (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).
    """

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
        first = int(self._rng.random() * len(stations))
        if len(stations) == 1:
            return stations[first]
        second = int(self._rng.random() * (len(stations) - 1))
        if second >= first:
            second += 1
        one, other = stations[first], stations[second]
        return other if other.load < one.load else one
