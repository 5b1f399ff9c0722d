"""Which lane work goes to, and which lanes a worker serves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from sglang_diffusion_routing.core.lane import NOT_LEARNED, Lane, LaneKey, Profile, lane_key
from sglang_diffusion_routing.core.policies import Chance, make_policy
from sglang_diffusion_routing.core.shares import Tenants
from sglang_diffusion_routing.core.station import Station
from sglang_diffusion_routing.core.work import Needs, Ticket
from sglang_diffusion_routing.core.worker import Standing

HOPEFUL = frozenset({Standing.ROUTABLE, Standing.UNPROVEN, Standing.COMING})
"""Standings of workers that are worth waiting for."""


class Lanes:
    """The lanes, made when they are first asked for.

    Work of different needs shares a lane if the same workers can do it, so a fleet of equal workers has one lane, and a
    grant costs the same however many workers there are. Which workers can do what is looked at profile by profile;
    when the set of profiles changes, all lanes are made anew.

    held: stations that are held to their ramps, for the lanes to know.
    """

    def __init__(self, policy: str, rng: Chance, tenants: Tenants | None = None) -> None:
        self._policy = policy
        self._tenants = tenants
        self._rng = rng
        self._stations: dict[Station, Profile] = {}
        self._profiles: Counter[Profile] = Counter()
        self._models: frozenset[str] = frozenset()
        self._routes: dict[tuple[Needs, str | None], Lane] = {}
        self._lanes: dict[LaneKey, Lane] = {}
        self._by_status: dict[LaneKey, Mapping[str, int]] = {}
        self.held: dict[Station, None] = {}
        self.models_differ = False

    @property
    def all(self) -> Collection[Lane]:
        return self._lanes.values()

    def find(self, needs: Needs, model: str | None) -> Lane:
        """Give the lane for such work."""
        lane = self._routes.get((needs, model))
        if lane is not None:
            return lane
        if model is not None and model not in self._models:
            # Clients may name what they like: only models that workers serve are remembered.
            return self.find(needs, None)
        key = lane_key(needs, model, self._profiles.keys() | {NOT_LEARNED})
        lane = self._lanes.get(key)
        if lane is None:
            policy = make_policy(self._policy, self._rng)
            lane = self._lanes[key] = Lane(key, policy, self.held, self._tenants)
            for station in self._stations:
                self._seat(station, lane)
        self._routes[needs, model] = lane
        return lane

    def capable(self, needs: Needs) -> bool:
        """Tell whether a registered worker makes this or may yet prove to; images also while none is registered."""
        match needs:
            case Needs.VIDEO:
                return any(profile.video or not profile.learned for profile in self._profiles)
            case Needs.IMAGE:
                return not self._profiles or any(profile.images for profile in self._profiles)
            case Needs.ANY:
                return True

    def by_status(self, lane: Lane) -> Mapping[str, int]:
        """Count the workers that may do the lane's work by the status that is shown."""
        counts = self._by_status.get(lane.key)
        if counts is None:
            counts = Counter(station.worker.status.value for station in self._stations if lane in station.hopes)
            self._by_status[lane.key] = counts
        return counts

    def touched(self) -> None:
        """Take in that a worker's record has changed, in whatever way."""
        self._by_status.clear()

    def place(self, station: Station, *, standing: Standing, cap: int, is_open: bool) -> None:
        """Put a station, new or not, where it now belongs."""
        self._unseat(station)
        station.standing, station.cap, station.open = standing, cap, is_open
        profile = Profile.of(station.worker.capability)
        before = self._stations.get(station)
        self._stations[station] = profile
        if profile != before and self._count(profile, before):
            self._remake()
        else:
            for lane in self._lanes.values():
                self._seat(station, lane)

    def remove(self, station: Station) -> None:
        """Take a station out for good."""
        self._unseat(station)
        if self._count(None, self._stations.pop(station)):
            self._remake()

    def belongs(self, station: Station, *, standing: Standing, cap: int) -> bool:
        """Tell whether a station stands where it should, so that its place among its like can stay."""
        return (
            station.standing is standing
            and station.cap == cap
            and self._stations.get(station) == Profile.of(station.worker.capability)
        )

    def tickets(self) -> list[Ticket]:
        """Give all that waits, in order."""
        waiting = [ticket for lane in self._lanes.values() for ticket in lane.lines]
        waiting.sort(key=lambda ticket: ticket.sequence)
        return waiting

    def oldest_s(self) -> float | None:
        """Give the instant since which something waits, None while nothing does."""
        # Within a line tickets stand as they came; those of other lines may be older.
        lines = (line for lane in self._lanes.values() for _, line in lane.lines.items())
        return min((next(iter(line)).enqueued_s for line in lines), default=None)

    def _count(self, new: Profile | None, old: Profile | None) -> bool:
        """Count a station's profile.

        Returns:
            True if there is now another set of profiles; the one of workers that nobody has asked yet is always in it,
            since every worker passes through it.
        """
        differs = False
        if new is not None:
            differs = new not in self._profiles and new != NOT_LEARNED
            self._profiles[new] += 1
        if old is not None:
            self._profiles[old] -= 1
            if not self._profiles[old]:
                del self._profiles[old]
                differs = differs or old != NOT_LEARNED
        self._models = frozenset().union(*(profile.models for profile in self._profiles))
        served = {(profile.learned, profile.models) for profile in self._profiles}
        self.models_differ = bool(self._models) and len(served) > 1
        return differs

    def _remake(self) -> None:
        waiting = self.tickets()
        self._lanes.clear()
        self._routes.clear()
        self._by_status.clear()
        for station in self._stations:
            station.lanes = station.hopes = ()
        for ticket in waiting:
            self.find(ticket.spec.needs, ticket.spec.model).lines.add(ticket)

    def _seat(self, station: Station, lane: Lane) -> None:
        profile = self._stations[station]
        if profile in lane.key.fits:
            station.lanes += (lane,)
            if station.open:
                lane.add(station)
            elif station.standing is Standing.ASLEEP:
                lane.sleepers[station] = None
        if profile in lane.key.hopes:
            station.hopes += (lane,)
            lane.hope += station.standing in HOPEFUL

    def _unseat(self, station: Station) -> None:
        for lane in station.lanes:
            if station.open:
                lane.remove(station)
            lane.sleepers.pop(station, None)
        for lane in station.hopes:
            lane.hope -= station.standing in HOPEFUL
        station.lanes = station.hopes = ()
