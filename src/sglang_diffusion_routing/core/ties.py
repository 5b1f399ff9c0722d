"""What work waits for, beyond what its client asked for: its group's worker, and its group's weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from itertools import chain
from math import inf

from sglang_diffusion_routing.core.demands import REMEMBERED, Demands
from sglang_diffusion_routing.core.groups import Group, Groups
from sglang_diffusion_routing.core.lane import Lane
from sglang_diffusion_routing.core.lanes import HOPEFUL, Lanes
from sglang_diffusion_routing.core.policies.consistent_hash import favourite
from sglang_diffusion_routing.core.queue import Queue
from sglang_diffusion_routing.core.ranking import HASHES_AT_ONCE, Ranking
from sglang_diffusion_routing.core.station import Station
from sglang_diffusion_routing.core.work import Lease, LineKey, Result, Ticket, WorkSpec
from sglang_diffusion_routing.core.worker import WorkerId

_FAILED = frozenset({Result.ASLEEP, Result.CONNECT_FAILED, Result.DIED, Result.SCHEDULER_DIED})
"""Ends of a member after which the others are better off elsewhere."""


class Ties:
    """Ties work to workers, and unties it when they can do it no longer.

    A kept group is tied to the worker that its first member was given to, until that worker takes no work any more,
    has failed a member, or cannot meet what a member demands. Then its members may go anywhere, and the first of them
    to be given to a worker ties the others to that one. A pin goes before a group: it neither ties it nor follows it.

    No member, kept or spread, is given older weights than another one was before.

    Work with a digest is tied to the worker that it ranks first, of those that can do it and are there or on their way.

    unranked: waiting work that has to be ranked anew (`rank`); it may be tied to a worker that is gone.
    stirred: what has come to wait for something else may be for a worker with room: for one of these, None for any.
    """

    def __init__(self, lanes: Lanes, queue: Queue, stations: Mapping[WorkerId, Station], demands: Demands) -> None:
        self._lanes = lanes
        self._queue = queue
        self._stations = stations
        self._demands = demands
        self._groups = Groups()
        self._among: dict[tuple[Lane, frozenset[WorkerId]], frozenset[WorkerId]] = {}
        self.stirred: set[WorkerId | None] = set()
        self.unranked = Ranking()

    def key_of(self, lane: Lane, spec: WorkSpec, now_s: float) -> LineKey:
        """Say what work that has just come waits for, should it have to."""
        if not spec.group:
            return self._key(lane, spec, None)
        group = self._groups.join(spec.group, now_s)
        if group.worker in spec.avoid:
            self._untie(group)
        return self._key(lane, spec, group)

    def avoid(self, lane: Lane, key: LineKey, spec: WorkSpec) -> AbstractSet[WorkerId]:
        """Give the workers that free work must not go to; of those with room, these are never all that it may go to."""
        avoid = self._demands.avoid(key)
        if not key.spread:
            return avoid
        had = self._groups[spec.group].had
        seats = chain(lane.free, lane.full) if spec.creates_job else lane.free
        least: float = inf
        for station in seats:
            if station.worker.worker_id not in avoid:
                least = min(least, had.get(station.worker.worker_id, 0))
                if not least:
                    break
        return avoid | {worker_id for worker_id, count in had.items() if count > least}

    def waits(self, ticket: Ticket) -> None:
        """A member of a group has got a ticket."""
        self._groups.waits(ticket)

    def waits_no_more(self, ticket: Ticket) -> None:
        """A member's ticket is at an end."""
        self._groups.waits_no_more(ticket)

    def granted(self, lease: Lease, now_s: float) -> None:
        """A member has a lease: where its group is kept, and which weights the others may have, may follow from it."""
        spec, worker = lease.spec, lease.worker
        group = self._groups.granted(spec.group, worker.worker_id, now_s)
        changed = self._note_weights(group, lease)
        kept = spec.worker is None and not spec.spread
        if kept and group.worker != worker.worker_id and self._may_follow(group, spec):
            self._groups.keep(group, worker.worker_id)
            changed = True
        if changed:
            self._look_again(group.waiting)

    def ended(self, lease: Lease, result: Result, now_s: float) -> None:
        """A member's lease has ended."""
        group = self._groups.ended(lease.spec.group, now_s)
        if result in _FAILED and group.worker == lease.worker.worker_id:
            self._untie(group)

    def refresh(self) -> None:
        """Untie what can no longer be done where it is tied to."""
        before, self._among = self._among, {}
        for worker_id in self._groups.keepers():
            station = self._stations.get(worker_id)
            if station is None or not station.open:
                for group in self._groups.kept_on(worker_id):
                    self._untie(group)
        for lane in self._lanes.all:
            for lines in list(lane.lines.tied.values()):
                for key, line in list(lines.items()):
                    if not self._is_able(lane, key):
                        self._look_again([t for t in line if t.spec.group and t.spec.worker is None])
        if before:
            self._see_who_is_first(before)
            if len(self.unranked) < HASHES_AT_ONCE:
                self.rank()

    def rank(self) -> None:
        """Tie some of the work that is not ranked to the worker that is its first now."""
        self._look_again(self.unranked.take(len(self._stations)))

    def _note_weights(self, group: Group, lease: Lease) -> bool:
        """Raise what the group's members must have; True if that is news."""
        name, place = lease.worker.weight_group, self._demands.place_of(lease.worker)
        if name is None or place <= group.newest.get(name, 0):
            return False
        group.newest[name] = place
        return True

    def _may_follow(self, group: Group, spec: WorkSpec) -> bool:
        """Tell whether a group goes where a member went; not if that was for what its own worker does not make."""
        station = None if group.worker is None else self._stations.get(group.worker)
        return station is None or not station.open or self._lanes.find(spec.needs, spec.model) in station.lanes

    def _untie(self, group: Group) -> None:
        self._groups.keep(group, None)
        self._look_again(group.waiting)

    def _look_again(self, tickets: Iterable[Ticket]) -> None:
        """Let these wait for what they now have to."""
        for ticket in tickets:
            spec = ticket.spec
            lane = self._lanes.find(spec.needs, spec.model)
            key = self._key(lane, spec, self._groups[spec.group] if spec.group else None)
            if key != ticket.key:
                self._queue.change(ticket, key)
                lane.lines.move(ticket, key)
                self.stirred.add(key.bound)

    def _key(self, lane: Lane, spec: WorkSpec, group: Group | None) -> LineKey:
        key = LineKey.of(spec)
        if group is not None:
            key = key._replace(floor=self._demands.floor(group.newest))
        if spec.worker is not None or spec.spread:
            return key
        if group is not None and group.worker is not None:
            tied = key._replace(bound=group.worker)
            if self._is_able(lane, tied):
                return tied
        return key._replace(bound=favourite(spec.digest, self._candidates(lane, key))) if spec.digest else key

    def _candidates(self, lane: Lane, key: LineKey) -> frozenset[WorkerId]:
        """Give the workers that such work may be for: all that can do it and are there, or on their way."""
        among = self._among.get((lane, key.avoid))
        if among is None:
            if len(self._among) >= REMEMBERED:
                self._among.clear()
            among = self._among[lane, key.avoid] = frozenset(
                worker_id
                for worker_id, station in self._stations.items()
                if lane in station.lanes and station.standing in HOPEFUL and worker_id not in key.avoid
            )
        return among - self._demands.avoid(key) if key.min_version is not None or key.floor else among

    def _see_who_is_first(self, before: Mapping[tuple[Lane, frozenset[WorkerId]], frozenset[WorkerId]]) -> None:
        """Note what waits for the worker that it ranks first, where that may be another one now.

        Args:
            before: the workers that there were.
        """
        for lane in self._lanes.all:
            for key, line in list(lane.lines.items()):
                now, was = self._candidates(lane, key), before.get((lane, key.avoid))
                joined = now if was is None else now - was
                if key.bound not in now or joined:
                    self.unranked.add((t for t in line if t.spec.digest), joined if key.bound in now else None)

    def _is_able(self, lane: Lane, key: LineKey) -> bool:
        """Tell whether the worker that work is tied to can do it, once it has room."""
        station = None if key.bound is None else self._stations.get(key.bound)
        if station is None or not station.open or lane not in station.lanes:
            return False
        return key.bound not in self._demands.avoid(key)
