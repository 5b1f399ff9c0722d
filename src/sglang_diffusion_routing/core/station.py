"""A worker as the scheduler sees it, and stations ordered by load."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from sglang_diffusion_routing.core.speed import Speed
from sglang_diffusion_routing.core.work import Lease, Result
from sglang_diffusion_routing.core.worker import Standing, Worker

if TYPE_CHECKING:
    from sglang_diffusion_routing.core.lane import Lane


class Station:
    """Where work is done: one worker with its leases.

    worker: its record, read only in `Scheduler.refresh`, never on the way of a request.
    leases: live ones, by id.
    load: leases that count against the cap (all but those that skip the queue).
    work: sum of their work, in megapixel-steps; speed: what is learned of the worker's.
    first_work: that of the oldest lease, 0 when nothing is known of it; first_since_s: since when it has been done.
    done_s: instant at which it was done with the last of them, as far as that is known.
    cap: largest load at which it is given no more work.
    ramp: what bounds its cap until it has shown that it works well, None once it has. is_late: whether others had shown
        that when this began, None before it was open. doubted_s: when its process was last found to be perhaps another.
    open: whether it takes work, be it full; standing: why.
    gone: removed; it stays until its last lease has ended.
    answered_s: instant at which it last completed a reply.
    ended: leases that have ended here, by route a list of counts, whose index is the result.
    lanes: those whose work it can do; hopes: those whose work may wait for it, which are at least these.
    """

    __slots__ = (
        "answered_s",
        "cap",
        "done_s",
        "doubted_s",
        "ended",
        "first_since_s",
        "first_work",
        "gone",
        "hopes",
        "is_late",
        "lanes",
        "leases",
        "load",
        "open",
        "ramp",
        "speed",
        "standing",
        "work",
        "worker",
    )

    def __init__(self, worker: Worker, speed: Speed | None = None) -> None:
        self.worker = worker
        self.speed = Speed() if speed is None else speed
        self.standing = Standing.AWAY
        self.leases: dict[int, Lease] = {}
        self.load = 0
        self.work = 0.0
        self.first_work = 0.0
        self.first_since_s = 0.0
        self.done_s = 0.0
        self.cap = 0
        self.ramp: int | None = None
        self.is_late: bool | None = None
        self.doubted_s = -inf
        self.open = False
        self.gone = False
        self.answered_s: float | None = None
        self.ended: defaultdict[str, list[int]] = defaultdict(_none)
        self.lanes: tuple[Lane, ...] = ()
        self.hopes: tuple[Lane, ...] = ()

    def take(self, lease: Lease) -> None:
        """Begin a piece of work."""
        self.leases[lease.lease_id] = lease
        spec = lease.spec
        if not spec.skips_queue:
            self.load += 1
            self.work += spec.cost_mpx_steps
            if len(self.leases) == 1:
                self._note_first(lease)

    def drop(self, lease: Lease) -> None:
        """End a piece of work."""
        leases, spec = self.leases, lease.spec
        del leases[lease.lease_id]
        if not spec.skips_queue:
            self.load -= 1
            self.work = self.work - spec.cost_mpx_steps if self.load else 0.0
        if leases:
            self._note_first(next(iter(leases.values())))
        else:
            self.first_work = 0.0

    def _note_first(self, lease: Lease) -> None:
        """Work that nothing is known of may be done at any time; other has been under way since it could be."""
        spec = lease.spec
        self.first_work = 0.0 if spec.skips_queue else spec.cost_mpx_steps
        # max() and min() would make what runs for every request a third slower.
        self.first_since_s = lease.granted_s if lease.granted_s > self.done_s else self.done_s  # noqa: FURB136

    def backlog(self, now_s: float) -> float:
        """Give the work that is left here, in megapixel-steps: all, less what must be done of the oldest by now."""
        speed = self.speed
        done = (now_s - self.first_since_s) * (speed.per_s or speed.expected)
        return self.work - (done if done < self.first_work else self.first_work)  # noqa: FURB136

    def finishes_in_s(self, cost: float, now_s: float) -> float:
        """Give the time after which work of this cost would be finished here, in seconds from now."""
        return (self.backlog(now_s) + cost) / self.speed.expected


def _none() -> list[int]:
    return [0] * len(Result)


class Look(NamedTuple):
    """How many stations are looked at: of the same load, and in all.

    Some of each load, so that fast stations with some work are found behind any number of slow ones without.
    """

    per_load: int
    total: int


class LoadBuckets:
    """Stations by load; within a load, the one that has stood there longest comes first.

    Every step is O(1), amortised. An OrderedDict is a set with an order whose first member is found at once; a dict
    walks over what was deleted before it.
    """

    __slots__ = ("_buckets", "_lowest", "size")

    def __init__(self) -> None:
        self._buckets: list[OrderedDict[Station, None]] = [OrderedDict()]
        self._lowest = 0
        self.size = 0

    def add(self, station: Station) -> None:
        load, buckets = station.load, self._buckets
        while load >= len(buckets):
            buckets.append(OrderedDict())
        buckets[load][station] = None
        if load < self._lowest or not self.size:
            self._lowest = load
        self.size += 1

    def discard(self, station: Station, load: int) -> None:
        """Take a station out that was put in, or last moved, with this load."""
        buckets = self._buckets
        del buckets[load][station]
        self.size -= 1
        if self.size:
            while not buckets[self._lowest]:
                self._lowest += 1

    def risen(self, station: Station) -> None:
        """Follow a station whose load has grown by one."""
        load, buckets = station.load, self._buckets
        below = buckets[load - 1]
        del below[station]
        if load == len(buckets):
            buckets.append(OrderedDict())
        buckets[load][station] = None
        if not below and self._lowest == load - 1:
            self._lowest = load

    def fallen(self, station: Station) -> None:
        """Follow a station whose load has shrunk by one."""
        load, buckets = station.load, self._buckets
        del buckets[load + 1][station]
        buckets[load][station] = None
        self._lowest = min(self._lowest, load)

    def first(self) -> Station:
        """Give the least loaded station; there must be one."""
        return next(iter(self._buckets[self._lowest]))

    def __iter__(self) -> Iterator[Station]:
        """Give all stations, least loaded first."""
        for bucket in self._buckets[self._lowest :]:
            yield from bucket

    def sample(self, look: Look) -> list[Station]:
        """Give some stations of each load, least loaded first, as many as the look is wide."""
        found: list[Station] = []
        per_load, total = look
        unseen = self.size
        for bucket in islice(self._buckets, self._lowest, None):
            if bucket:
                count = len(bucket)
                found += bucket if count <= per_load else islice(bucket, per_load)
                unseen -= count
                if not unseen or len(found) >= total:
                    break
        return found if len(found) <= total else found[:total]

    def turn(self, station: Station) -> None:
        """Put a station behind the others of its load."""
        self._buckets[station.load].move_to_end(station)
