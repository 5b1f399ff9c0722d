"""When a copy of running work, on another worker, is worth what it costs.

The engine cannot stop what it has begun, so both run to their ends and one of them for nothing. A copy is therefore
made only where that takes time from nobody: while nothing waits, on a worker that has nothing to do. And only where it
is expected to end clearly sooner than the original (J. Dean, L. A. Barroso, "The Tail at Scale", 2013: hedged requests
that wait until the first is late; M. Zaharia et al., "Improving MapReduce Performance in Heterogeneous Environments",
2008: by the time that is left, and not by the time that has passed).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from sglang_diffusion_routing.core.lanes import Lanes
from sglang_diffusion_routing.core.queue import Queue
from sglang_diffusion_routing.core.station import Station
from sglang_diffusion_routing.core.work import Lease, WorkSpec
from sglang_diffusion_routing.core.worker import Standing, Worker

LATE = 2.0
"""Work is late when it has taken this times as long as expected: no more than that is within what speeds vary by."""
CLEARLY = 1.5
"""A copy is worth it when the original would take this times as long as it from now on,"""
GAIN_S = 1.0
"""and this much longer: below that, a look at the clock once a second tells nothing."""
HEDGED_PERCENT = 10
HEDGED_SPARE = 1
"""Of active work, how much may be copied at the same time, and how much in any case (after Envoy's `retry_budget`)."""
LOOK = 64
"""Idle workers that are looked at for one copy."""


def rests_s(station: Station, now_s: float) -> Iterator[tuple[Lease, float]]:
    """Give each piece of work on a worker, in the order in which it is done, with the seconds that it will still take.

    What the worker is at is expected to be done in its time; where that is long past, in as much time again as it has
    taken so far, since nobody knows what is wrong (it is the mean of what is left of a Pareto distribution with the
    exponent 2). What is behind it waits for it.
    """
    per_s = station.speed.expected
    left_s = 0.0
    began_s: float | None = station.first_since_s
    for lease in station.leases.values():
        if lease.spec.skips_queue:
            continue
        takes_s = lease.spec.cost_mpx_steps / per_s
        if began_s is not None:
            spent_s = now_s - began_s
            takes_s = spent_s if spent_s > LATE * takes_s else max(takes_s - spent_s, 0.0)
            began_s = None
        left_s += takes_s
        yield lease, left_s


class Hedges:
    """Judges by what the scheduler has: its lanes, its stations by worker, its queue."""

    def __init__(self, lanes: Lanes, stations: Mapping[Worker, Station], queue: Queue) -> None:
        self._lanes = lanes
        self._stations = stations
        self._queue = queue

    def stragglers(self, now_s: float) -> list[tuple[Lease, float]]:
        """Give work that may be worth a copy, with the seconds that it is expected to take still, the longest first."""
        if self._queue.count:
            return []
        idle = [station for station in self._stations.values() if _is_idle(station)]
        if not idle:
            return []
        late = [
            (lease, rest_s)
            for station in self._stations.values()
            if station.load and station.speed.is_known
            for lease, rest_s in rests_s(station, now_s)
            if rest_s > GAIN_S and lease.done_s is None and _may_have_copies(lease.spec)
        ]
        return sorted(late, key=lambda each: -each[1])

    def place(self, lease: Lease, rest_s: float) -> Worker | None:
        """Give the worker on which a copy is worth its price, the fastest of several; None if there is none.

        It has the weights that the original's worker has now. Whether that one had them all the time is for the caller
        to know.
        """
        spec, original = lease.spec, lease.worker
        lane = self._lanes.find(spec.needs, spec.model)
        fit = [
            station
            for station in islice(lane.free, LOOK)
            if _is_idle(station)
            and station.worker.worker_id not in spec.avoid
            and station.worker.weight_version == original.weight_version
            and station.worker.weight_group == original.weight_group
        ]
        if original.weight_version is None or not fit:
            return None
        best = max(fit, key=lambda station: station.speed.expected)
        copy_s = spec.cost_mpx_steps / best.speed.expected
        return best.worker if rest_s >= max(CLEARLY * copy_s, copy_s + GAIN_S) else None


def _is_idle(station: Station) -> bool:
    return station.standing is Standing.ROUTABLE and not station.leases


def _may_have_copies(spec: WorkSpec) -> bool:
    """Tell whether such work may run on any worker, and what it costs is known."""
    is_tied = spec.worker is not None or (spec.group and not spec.spread) or spec.digest
    return spec.cost_known and not spec.creates_job and not is_tied
