"""Who waits, and how waiting ends without a lease."""

from __future__ import annotations

from collections.abc import Callable, Collection

from sglang_diffusion_routing.core.demands import Demands
from sglang_diffusion_routing.core.experience import Experience
from sglang_diffusion_routing.core.lane import Lane
from sglang_diffusion_routing.core.lanes import Lanes
from sglang_diffusion_routing.core.limits import SchedulerLimits
from sglang_diffusion_routing.core.policies import Chance
from sglang_diffusion_routing.core.prospects import Prospects
from sglang_diffusion_routing.core.queue import Queue
from sglang_diffusion_routing.core.readings import Readings
from sglang_diffusion_routing.core.shares import Tenants
from sglang_diffusion_routing.core.stations import Stations
from sglang_diffusion_routing.core.ties import Ties
from sglang_diffusion_routing.core.weights import Ledger
from sglang_diffusion_routing.core.work import Decision, LineKey, Refused, Ticket, Waiter, WorkSpec
from sglang_diffusion_routing.errors import NoRoutableWorker, RouterError


class Waiting(Readings):
    """The queue, and the lines in which its tickets stand.

    displaced: decisions about those whose places were given to others, not delivered yet.
    """

    def __init__(self, limits: SchedulerLimits, ledger: Ledger, rng: Chance, policy: str) -> None:
        tenants = Tenants(limits.weights)
        lanes, experience = Lanes(policy, rng, tenants), Experience()
        super().__init__(lanes, Queue(limits.queue, tenants), Stations(lanes, limits, experience), experience)
        self._demands = Demands(ledger, self._by_id)
        self._prospects = Prospects(lanes, self._by_id, self._demands)
        self._ties = Ties(lanes, self._queue, self._by_id, self._demands)
        self.displaced: list[Decision] = []

    def abandon(self, ticket: Ticket) -> None:
        """Take back a ticket whose waiter has left; one that was decided stays decided."""
        if ticket.waiting:
            self._step_out(ticket)

    def drop(self, matches: Callable[[Ticket], bool], error: RouterError) -> list[Decision]:
        """Refuse the waiting work that matches."""
        decisions: list[Decision] = []
        for ticket in self._lanes.tickets():
            if matches(ticket):
                self._step_out(ticket)
                decisions.append(Refused(ticket, error))
        return decisions

    def drop_all(self, error: RouterError) -> list[Decision]:
        """Refuse all waiting work."""
        return self.drop(lambda _: True, error)

    def _wait(self, lane: Lane, spec: WorkSpec, key: LineKey | None, waiter: Waiter, now_s: float) -> Ticket:
        bound = self._queue.met(spec)
        if bound is not None:
            self._make_room(lane, spec, bound, now_s)
        ticket = self._queue.enter(spec, waiter, now_s, key)
        lane.lines.add(ticket)
        if spec.group:
            self._ties.waits(ticket)
        return ticket

    def _make_room(self, lane: Lane, spec: WorkSpec, bound: str, now_s: float) -> None:
        """Let others leave for work whose tenant has less than its share of the queue.

        Raises:
            QueueFull: it has not, or their leaving would not be enough.
        """
        count, gone = self._queue.count, self._queue.make_room(spec)
        if not gone:
            raise self._prospects.full(lane, count, bound, now_s)
        for ticket in gone:
            theirs = self._lanes.find(ticket.spec.needs, ticket.spec.model)
            self.displaced.append(Refused(ticket, self._prospects.full(theirs, count, bound, now_s)))
            self._step_out(ticket)

    def _step_out(self, ticket: Ticket) -> None:
        self._lanes.find(ticket.spec.needs, ticket.spec.model).lines.remove(ticket)
        self._left(ticket)

    def _left(self, ticket: Ticket) -> None:
        self._queue.leave(ticket)
        if ticket.spec.group:
            self._ties.waits_no_more(ticket)

    def _refuse_hopeless(self, lanes: Collection[Lane], *, removed: bool) -> list[Decision]:
        decisions: list[Decision] = []
        for lane in lanes:
            hopeless = [line for key, line in lane.lines.items() if not self._prospects.has_hope(lane, key)]
            for line in hopeless:
                for ticket in list(line):
                    if ticket in self._ties.unranked:
                        # Its worker has gone; which one is the next, and whether there is any, is not known yet.
                        continue
                    lane.lines.remove(ticket)
                    self._left(ticket)
                    # Whoever was right to ask is told that the last worker has left, not that the question is wrong.
                    if removed and ticket.spec.worker is None:
                        decisions.append(Refused(ticket, NoRoutableWorker(self._lanes.by_status(lane))))
                    else:
                        decisions.append(Refused(ticket, self._prospects.in_vain(lane, ticket.spec)))
        return decisions
