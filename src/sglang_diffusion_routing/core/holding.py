"""Whether work should wait for a faster worker, although a slower one has room."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from heapq import nlargest
from itertools import chain, islice
from math import inf

from sglang_diffusion_routing.core.lane import Lane
from sglang_diffusion_routing.core.station import Station
from sglang_diffusion_routing.core.worker import WorkerId

LOOK = 32
"""Workers, and pieces of waiting work, that are looked at one by one; beyond these a sum is good enough."""

_SLACK = 1e-6
"""Of two workers that would have finished at the same time, the one that has room is taken."""


def largest_worth(
    lane: Lane, station: Station, avoid: AbstractSet[WorkerId], cost: float | None, now_s: float
) -> float:
    """Say how much work a station with room is worth waiting for, in megapixel-steps.

    Near the end of a batch the others will have finished all that waits before a slow worker has finished one more
    piece; that piece is then better left to them. So the station is given work that it will have finished by the time
    at which the others would be done with everything, and no more.

    Args:
        avoid: workers that the work may not go to.
        cost: of work that does not wait yet, None if there is none.
    """
    others = [
        other
        for other in islice(chain(lane.free, lane.full), LOOK + 1)
        if other is not station and other.worker.worker_id not in avoid
    ]
    if not others:
        return inf
    waiting = lane.lines.work + (cost or 0.0)
    if lane.lines.count > LOOK:
        open_now = lane.free.size + lane.full.size
        done_in_s = _level(others, waiting * len(others) / max(open_now - 1, len(others)), now_s)
    else:
        costs = [ticket.spec.cost_mpx_steps for ticket in lane.lines]
        if cost is not None:
            costs.append(cost)
        done_in_s = _longest_first(others, nlargest(len(costs), costs), now_s)
    return done_in_s * station.speed.expected * (1.0 + _SLACK) - station.backlog(now_s)


def _level(stations: Iterable[Station], work: float, now_s: float) -> float:
    """Give the seconds in which these stations do all their work and this, if it can be cut into any pieces."""
    ready = sorted((station.backlog(now_s) / station.speed.expected, station.speed.expected) for station in stations)
    level, speed = ready[0][0], 0.0
    for ready_s, per_s in ready:
        if speed and work <= (ready_s - level) * speed:
            break
        work -= (ready_s - level) * speed
        level = ready_s
        speed += per_s
    return level + work / speed


def _longest_first(stations: Sequence[Station], costs: Sequence[float], now_s: float) -> float:
    """Give the seconds in which these stations do all of these pieces, each given to the one that ends it first."""
    speeds = [station.speed.expected for station in stations]
    ready = [station.backlog(now_s) / speed for station, speed in zip(stations, speeds, strict=True)]
    last_s = 0.0
    for cost in costs:
        ends = [ready_s + cost / speed for ready_s, speed in zip(ready, speeds, strict=True)]
        end_s = min(ends)
        ready[ends.index(end_s)] = end_s
        last_s = max(last_s, end_s)
    return last_s
