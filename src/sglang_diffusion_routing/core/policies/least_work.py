"""The worker that will have finished the work first."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from itertools import islice
from math import inf

from sglang_diffusion_routing.core.line import Order
from sglang_diffusion_routing.core.policies.policy import Chance
from sglang_diffusion_routing.core.station import LoadBuckets, Look, Station
from sglang_diffusion_routing.core.worker import WorkerId


class LeastWork:
    """argmin over workers of (work in flight + this work) / speed, in seconds.

    Work in flight, in megapixel-steps, is that of all pieces on the worker less what of the first must be done by now;
    speed, in megapixel-steps per second, is what was learned of the worker (`core/speed.py`). A tie goes to the worker
    whose number of pieces has been what it is for the longest time.
    """

    __slots__ = ()
    order = Order.LONGEST_AGED
    weighs = True

    def __init__(self, rng: Chance) -> None:
        """Chance plays no part."""

    def entered(self, station: Station) -> None:
        """The order by load is all that is needed."""

    def left(self, station: Station) -> None:
        """The order by load is all that is needed."""

    def choose(self, free: LoadBuckets, avoid: AbstractSet[WorkerId], cost: float, now_s: float, look: Look) -> Station:
        if free.size == 1:
            return free.first()
        chosen = soonest(free, avoid, cost, now_s, look)
        assert chosen is not None
        return chosen


class LongestFirst(LeastWork):
    """As least-work, for batches of which only the end counts: the longest is next however long others have waited."""

    __slots__ = ()
    order = Order.LONGEST


def soonest(
    stations: LoadBuckets, avoid: AbstractSet[WorkerId], cost: float, now_s: float, look: Look
) -> Station | None:
    """Give the station that will have finished work of this cost first; None if there is none.

    Args:
        look: how many are compared, so that a choice costs the same with a thousand workers.
    """
    chosen, chosen_s = None, inf
    looked_at: Iterable[Station] = stations.sample(look)
    if avoid:
        looked_at = islice((station for station in stations if station.worker.worker_id not in avoid), look.total)
    for station in looked_at:
        # `Station.finishes_in_s`, written out: two calls for each of 12 stations cost more than all the rest.
        speed = station.speed
        per_s = speed.per_s or speed.expected
        done, first = (now_s - station.first_since_s) * per_s, station.first_work
        takes_s = (station.work - (done if done < first else first) + cost) / per_s  # noqa: FURB136
        if takes_s < chosen_s:
            chosen, chosen_s = station, takes_s
    return chosen
