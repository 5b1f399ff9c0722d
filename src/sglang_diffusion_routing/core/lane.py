"""The workers that can do the same work, and the work that waits for them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from sglang_diffusion_routing.core.lines import Lines
from sglang_diffusion_routing.core.policies import Policy, soonest
from sglang_diffusion_routing.core.shares import Tenants
from sglang_diffusion_routing.core.station import LoadBuckets, Look, Station
from sglang_diffusion_routing.core.work import Needs
from sglang_diffusion_routing.core.worker import Capability, WorkerId


class Profile(NamedTuple):
    """What matters of a capability: workers with the same profile are interchangeable.

    images, video: whether it takes such work; with unknown tasks it takes images.
    learned: False while it may yet prove to make anything.
    """

    images: bool
    video: bool
    learned: bool
    models: frozenset[str]

    @classmethod
    def of(cls, capability: Capability) -> Profile:
        return cls(
            capability.makes_images is not False,
            capability.makes_video is True,
            capability.learned,
            frozenset(capability.models),
        )

    def takes(self, needs: Needs) -> bool:
        """Tell whether a worker of this profile is given such work."""
        match needs:
            case Needs.IMAGE:
                return self.images
            case Needs.VIDEO:
                return self.video
            case Needs.ANY:
                return True


NOT_LEARNED = Profile.of(Capability())
"""The profile of a worker that has not been asked yet."""


class LaneKey(NamedTuple):
    """fits: profiles of the workers that can do the work. hopes: and of those that may yet prove to."""

    fits: frozenset[Profile]
    hopes: frozenset[Profile]


def lane_key(needs: Needs, model: str | None, profiles: AbstractSet[Profile]) -> LaneKey:
    """Say which of the profiles there are can do such work.

    A model restricts only if some capable worker serves it: engines ignore a model that they do not know.
    """
    fits = {profile for profile in profiles if profile.takes(needs)}
    if model is not None:
        serving = {profile for profile in fits if model in profile.models}
        fits = serving or fits
    return LaneKey(frozenset(fits), frozenset(fits | {profile for profile in profiles if not profile.learned}))


QUICK_LOOK, THOROUGH_LOOK = Look(4, 12), Look(64, 128)
"""When some stations are full or work waits, the end of a batch may be near, and it is worth finding the best. Else it
is not: a look at one station costs 0.2 microseconds."""


class Lane:
    """The open stations that can do the same work, by load, and the tickets that wait for them.

    free: stations with room. full: those without. sleepers: asleep, for what may go there.
    hope: number of stations worth waiting for. lines: the tickets.
    held: stations, of this lane and others, that have yet to show that they work well (`core/ramp.py`).
    """

    __slots__ = ("free", "full", "held", "hope", "key", "lines", "policy", "sleepers", "weighs")

    def __init__(
        self,
        key: LaneKey,
        policy: Policy,
        held: Collection[Station] = (),
        tenants: Tenants | None = None,
    ) -> None:
        self.key = key
        self.policy = policy
        self.weighs = policy.weighs
        self.held = held
        self.free = LoadBuckets()
        self.full = LoadBuckets()
        self.sleepers: OrderedDict[Station, None] = OrderedDict()
        self.hope = 0
        self.lines = Lines(policy.order, tenants)

    # The lane is told of every change of an open station's load.

    def add(self, station: Station) -> None:
        if station.load < station.cap:
            self.free.add(station)
            self.policy.entered(station)
        else:
            self.full.add(station)

    def remove(self, station: Station) -> None:
        if station.load < station.cap:
            self.free.discard(station, station.load)
            self.policy.left(station)
        else:
            self.full.discard(station, station.load)

    def grew(self, station: Station) -> None:
        load, cap = station.load, station.cap
        if load < cap:
            self.free.risen(station)
        elif load == cap:
            self.free.discard(station, load - 1)
            self.policy.left(station)
            self.full.add(station)
        else:
            self.full.risen(station)

    def shrank(self, station: Station) -> None:
        load, cap = station.load, station.cap
        if load >= cap:
            self.full.fallen(station)
        elif load == cap - 1:
            self.full.discard(station, load + 1)
            self.free.add(station)
            self.policy.entered(station)
        else:
            self.free.fallen(station)

    def choose(
        self, avoid: AbstractSet[WorkerId], *, creates_job: bool, cost: float = 0.0, now_s: float = 0.0
    ) -> Station | None:
        """Give the station for such work, None if it has to wait. A job goes to the best, full or not."""
        if creates_job:
            return self._for_job(avoid, cost, now_s)
        if not self.free.size or (avoid and _first(self.free, avoid) is None):
            return None
        look = THOROUGH_LOOK if self.lines.count or self.full.size else QUICK_LOOK
        return self.policy.choose(self.free, avoid, cost, now_s, look)

    def _for_job(self, avoid: AbstractSet[WorkerId], cost: float, now_s: float) -> Station | None:
        best = self._soonest if self.weighs else self._least_of_all
        # No cap keeps jobs from a worker that has much to show yet; there only has to be another one.
        busy = {station.worker.worker_id for station in self.held if station.load >= station.cap}
        return (best(avoid | busy, cost, now_s) if busy else None) or best(avoid, cost, now_s)

    def _least_of_all(self, avoid: AbstractSet[WorkerId], cost: float, now_s: float) -> Station | None:
        return self.least(avoid)

    def _soonest(self, avoid: AbstractSet[WorkerId], cost: float, now_s: float) -> Station | None:
        free, full = (soonest(stations, avoid, cost, now_s, THOROUGH_LOOK) for stations in (self.free, self.full))
        if free is None or full is None:
            return free or full
        return full if full.finishes_in_s(cost, now_s) < free.finishes_in_s(cost, now_s) else free

    def least(self, avoid: AbstractSet[WorkerId]) -> Station | None:
        """Give the open station with the least load, full or not."""
        free, full = _first(self.free, avoid), _first(self.full, avoid)
        if free is None or full is None:
            return free or full
        return full if full.load < free.load else free

    def sleeper(self, avoid: AbstractSet[WorkerId]) -> Station | None:
        """Give the sleeping station whose turn is longest past."""
        return next((station for station in self.sleepers if station.worker.worker_id not in avoid), None)

    def turn(self, station: Station) -> None:
        """Let others of the same load go first the next time."""
        if station in self.sleepers:
            self.sleepers.move_to_end(station)
        elif station.load < station.cap:
            self.free.turn(station)
        else:
            self.full.turn(station)

    def can_grant(self, avoid: AbstractSet[WorkerId], *, creates_job: bool) -> bool:
        """Tell whether work that must not go to `avoid` need not wait."""
        if _first(self.free, avoid) is not None:
            return True
        return creates_job and _first(self.full, avoid) is not None


def _first(stations: LoadBuckets, avoid: AbstractSet[WorkerId]) -> Station | None:
    if not stations.size:
        return None
    if not avoid:
        return stations.first()
    return next((station for station in stations if station.worker.worker_id not in avoid), None)
