"""The tickets that wait in one lane: in lines of alike, and those that are tied to one worker apart from the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from math import inf

from sglang_diffusion_routing.core.line import PATIENCE, Line, Order, make_line
from sglang_diffusion_routing.core.work import LineKey, Ticket
from sglang_diffusion_routing.core.worker import WorkerId


class Lines:
    """Where each ticket of a lane stands, and by what it ages.

    A worker that comes free is of no use to what is tied to another one. So a release looks at the shared lines and at
    its own worker's, however many tickets are tied to however many others.

    shared: lines of tickets that any worker may take. tied: the others, by their worker.
    count: number of tickets; levels: the same by priority. work: of all of them; given_out: of all that were granted.
    In megapixel-steps.
    """

    __slots__ = ("_order", "_work_of", "count", "given_out", "levels", "shared", "tied", "work")

    def __init__(self, order: Order) -> None:
        self._order = order
        self._work_of: dict[int, float] = {}
        self.shared: dict[LineKey, Line] = {}
        self.tied: dict[WorkerId, dict[LineKey, Line]] = {}
        self.count = 0
        self.levels: dict[int, int] = {}
        self.work = 0.0
        self.given_out = 0.0

    @property
    def clock(self) -> float:
        """What tickets age by: the work given out; it stands still while arrival alone decides who is next."""
        return -inf if self._order is Order.ARRIVAL and len(self.levels) < 2 else self.given_out

    def __iter__(self) -> Iterator[Ticket]:
        """Give all tickets, line by line."""
        return chain.from_iterable(line for _, line in self.items())

    def items(self) -> Iterable[tuple[LineKey, Line]]:
        """Give all lines."""
        return chain(self.shared.items(), *(lines.items() for lines in self.tied.values()))

    def open_to(self, worker_id: WorkerId) -> Iterable[tuple[LineKey, Line]]:
        """Give the lines whose tickets one worker may take."""
        tied = self.tied.get(worker_id)
        return self.shared.items() if tied is None else chain(self.shared.items(), tied.items())

    def line(self, key: LineKey) -> Line:
        """Give the line of such tickets.

        Raises:
            KeyError: there is none.
        """
        return (self.shared if key.bound is None else self.tied[key.bound])[key]

    def add(self, ticket: Ticket) -> None:
        """Let a ticket wait behind those of its kind."""
        cost, level = ticket.spec.cost_mpx_steps, ticket.spec.priority
        # Work that failed elsewhere has had its turn.
        ticket.due_at = -inf if ticket.spec.avoid else self.given_out + PATIENCE * (self._ahead_of(level) + cost)
        self.count += 1
        self.work += cost
        self.levels[level] = self.levels.get(level, 0) + 1
        self._work_of[level] = self._work_of.get(level, 0.0) + cost
        self._stand(ticket)

    def _ahead_of(self, level: int) -> float:
        """Give the work that waits before a newcomer of this priority, in megapixel-steps."""
        if not self.levels or min(self.levels) >= level:
            return self.work
        return sum(work for other, work in self._work_of.items() if other >= level)

    def remove(self, ticket: Ticket) -> None:
        """Take a ticket out."""
        cost, level = ticket.spec.cost_mpx_steps, ticket.spec.priority
        self._step_out(ticket)
        self.count -= 1
        self.work -= cost
        self.levels[level] -= 1
        self._work_of[level] -= cost
        if not self.levels[level]:
            del self.levels[level], self._work_of[level]
            if not self.count:
                self.work = 0.0

    def grant(self, ticket: Ticket) -> None:
        """Take out a ticket that goes to a worker."""
        self.remove(ticket)
        self.given_out += ticket.spec.cost_mpx_steps

    def move(self, ticket: Ticket, key: LineKey) -> None:
        """Let a ticket wait for something else from now on; it keeps its place and its age."""
        self._step_out(ticket)
        ticket.key = key
        self._stand(ticket)

    def _stand(self, ticket: Ticket) -> None:
        key = ticket.key
        lines = self.shared if key.bound is None else self.tied.setdefault(key.bound, {})
        line = lines.get(key)
        if line is None:
            line = lines[key] = make_line(self._order)
        line.add(ticket)

    def _step_out(self, ticket: Ticket) -> None:
        key = ticket.key
        lines = self.shared if key.bound is None else self.tied[key.bound]
        line = lines[key]
        line.remove(ticket)
        if not line:
            del lines[key]
            if key.bound is not None and not lines:
                del self.tied[key.bound]
