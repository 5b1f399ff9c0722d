"""Which of what waits is next, and where it goes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import inf
from typing import NamedTuple

from sglang_diffusion_routing.core.demands import Demands
from sglang_diffusion_routing.core.holding import largest_worth
from sglang_diffusion_routing.core.lane import Lane
from sglang_diffusion_routing.core.line import Line
from sglang_diffusion_routing.core.lines import Lines, Rank
from sglang_diffusion_routing.core.station import Station
from sglang_diffusion_routing.core.ties import Ties
from sglang_diffusion_routing.core.work import LineKey, Ticket, WorkSpec


class Match(NamedTuple):
    """A ticket and the station that it goes to; in_turn: unless it is overdue, and goes before what is not."""

    ticket: Ticket
    lane: Lane
    station: Station
    in_turn: bool = True


class Matching:
    """Finds one match after the other, by the order and the choice of the lanes' policy."""

    def __init__(self, demands: Demands, ties: Ties) -> None:
        self._demands = demands
        self._ties = ties

    def matches(self, lanes: Collection[Lane], freed: Station | None, now_s: float) -> Iterable[Match]:
        """Give what these lanes can grant, the next ticket first; a line that must wait holds up no other.

        Each match is to be carried out before the next one is asked for.

        Args:
            freed: the one station that has come to have room, so that nothing waits for any other.
        """
        # Room only gets less while matches are carried out: what has to wait now waits to the end of this.
        shut: set[tuple[Lane, LineKey]] = set()
        wait: set[Line] = set()
        worker_id = None if freed is None else freed.worker.worker_id
        judge = None if freed is None or len(lanes) == 1 else _narrowest(lanes)
        while True:
            ready: list[tuple[Rank, Ticket, Line, Lane]] = []
            for lane in lanes:
                lines, clock = lane.lines, lane.lines.clock
                for kind, by_tenant in lines.kinds(worker_id):
                    if (lane, kind) in shut:
                        continue
                    front = lines.front(by_tenant, wait, clock, judge) if self._can_grant(lane, kind, freed) else None
                    if front is None:
                        shut.add((lane, kind))
                    else:
                        ready.append((*front, lane))
            if not ready:
                return
            rank, ticket, line, lane = min(ready)
            match = self._match(ticket, lane, now_s, in_turn=rank[0] > -inf)
            if match is None:
                wait.add(line)
            else:
                yield match

    def station_for(self, lane: Lane, spec: WorkSpec, key: LineKey, now_s: float) -> Station | None:
        """Give the station for such work, None if it has to wait."""
        if key.bound is not None:
            return self._demands.bound(lane, key)
        avoid = self._ties.avoid(lane, key, spec)
        return lane.choose(avoid, creates_job=spec.creates_job, cost=spec.cost_mpx_steps, now_s=now_s)

    def is_worth(self, lane: Lane, station: Station, spec: WorkSpec, key: LineKey | None, now_s: float) -> bool:
        """Tell whether work that has just come should go to a station with room, and not wait for a faster one.

        Args:
            key: what it waits for, if that is not just any worker.
        """
        if not _may_hold(lane, spec, key):
            return True
        avoid = spec.avoid if key is None else self._demands.avoid(key)
        return spec.cost_mpx_steps <= largest_worth(lane, station, avoid, spec.cost_mpx_steps, now_s)

    def _can_grant(self, lane: Lane, key: LineKey, freed: Station | None) -> bool:
        if key.bound is not None:
            return self._demands.bound(lane, key) is not None
        avoid = self._demands.avoid(key)
        if freed is None or lane.weighs:
            # Where work may be held back, others than the one that was freed have room too.
            return lane.can_grant(avoid, creates_job=key.creates_job)
        return freed.load < freed.cap and freed.worker.worker_id not in avoid

    def _match(self, ticket: Ticket, lane: Lane, now_s: float, *, in_turn: bool) -> Match | None:
        """Match the ticket that is next in a line, or another one of it that its station is worth; None if none is."""
        spec, key, cost = ticket.spec, ticket.key, ticket.spec.cost_mpx_steps
        station = self.station_for(lane, spec, key, now_s)
        if station is None:
            raise AssertionError("a lane that can grant must have a station to choose")
        if not _may_hold(lane, spec, key):
            return Match(ticket, lane, station, in_turn)
        avoid = self._demands.avoid(key)
        limit = largest_worth(lane, station, avoid, None, now_s)
        if cost <= limit:
            return Match(ticket, lane, station, in_turn)
        line = lane.lines.line(key)
        # Whatever becomes of the others, nothing is kept back for longer than this station would have needed for it.
        line.hold(ticket, now_s + station.finishes_in_s(cost, now_s))
        other = line.held_too_long(now_s) or line.longest_within(limit)
        return None if other is None else Match(other, lane, station, in_turn)


def _narrowest(lanes: Iterable[Lane]) -> Lines | None:
    """Give, of several lanes in which something waits, the one with the fewest workers: its work has least choice."""
    waiting = [lane for lane in lanes if lane.lines.count]
    return min(waiting, key=lambda lane: lane.free.size + lane.full.size).lines if len(waiting) > 1 else None


def _may_hold(lane: Lane, spec: WorkSpec, key: LineKey | None) -> bool:
    """Tell whether work may wait although a worker has room: only for one that is busy now, and never a job.

    Nothing that is tied to a worker is held back from it, and nothing is held back for the sake of spreading.
    """
    if not lane.weighs or not lane.full.size or spec.creates_job:
        return False
    return key is None or (key.bound is None and not key.spread)
