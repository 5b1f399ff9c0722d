"""The order of tickets that wait for the same, with the same priority: by arrival, or the longest first."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Iterator
from enum import Enum
from heapq import merge
from math import inf
from operator import itemgetter

from sglang_diffusion_routing.core.work import Ticket

PATIENCE = 2.0
"""A ticket is overdue when this times the work has been given out that would be by arrival order, its own included."""


class Order(Enum):
    """Which of the tickets that can be granted is next."""

    ARRIVAL = "arrival"
    LONGEST_AGED = "longest, with ageing"
    LONGEST = "longest"


Place = tuple[float, float]
"""Of two tickets that wait for the same, the one with the lower place is next: what is overdue before what is not."""


class Line:
    """Tickets in the order of their arrival."""

    def __init__(self) -> None:
        self._tickets: OrderedDict[Ticket, None] = OrderedDict()
        self._last = -inf
        # Those that came from another line, behind later ones. There may be thousands, of as many groups.
        self._between: list[tuple[int, Ticket]] = []
        self._held: dict[Ticket, float] = {}

    def __len__(self) -> int:
        return len(self._tickets) + len(self._between)

    def __iter__(self) -> Iterator[Ticket]:
        if not self._between:
            return iter(self._tickets)
        return merge(self._tickets, (ticket for _, ticket in self._between), key=_arrival)

    def add(self, ticket: Ticket) -> None:
        """Let a ticket in, at the place that it came to when it came, wherever it has waited since."""
        if ticket.sequence > self._last:
            self._last = ticket.sequence
            self._tickets[ticket] = None
        else:
            insort(self._between, (ticket.sequence, ticket), key=itemgetter(0))

    def remove(self, ticket: Ticket) -> None:
        if self._between and ticket not in self._tickets:
            del self._between[bisect_left(self._between, ticket.sequence, key=itemgetter(0))]
        else:
            del self._tickets[ticket]
        self._held.pop(ticket, None)

    def hold(self, ticket: Ticket, until_s: float) -> None:
        """Keep a ticket from a worker that has room, at most until this instant, or until another one named before."""
        self._held.setdefault(ticket, until_s)

    def held_too_long(self, now_s: float) -> Ticket | None:
        """Give a ticket that may not be kept back any longer, the one that was kept back first."""
        return next((ticket for ticket, until_s in self._held.items() if until_s <= now_s), None)

    def head(self, clock: float) -> Ticket:
        """Give the ticket that is next.

        Args:
            clock: what tickets age by: the work that the lane has given out so far, in megapixel-steps, divided by the
                weight of the tenants who waited for it.
        """
        first = next(iter(self._tickets), None)
        if self._between and (first is None or self._between[0][0] < first.sequence):
            return self._between[0][1]
        assert first is not None
        return first

    def place(self, ticket: Ticket, clock: float) -> Place:
        """Give a ticket's place by the order of this line; equals go by their arrival."""
        return (0.0, ticket.due_at) if ticket.due_at <= clock else (1.0, 0.0)

    def longest_within(self, cost: float) -> Ticket | None:
        """Give the longest ticket of at most this much work, in megapixel-steps."""
        return max((t for t in self if t.spec.cost_mpx_steps <= cost), key=_length, default=None)


class LongestLine(Line):
    """The longest ticket is next, unless one is overdue.

    Work that begins last is what the batch's end waits for, so it should be short (Graham, "Bounds on Multiprocessing
    Timing Anomalies", 1969: at most 4/3 of the shortest makespan on equal workers, where arrival order may take 2).

    aged: whether a ticket can be overdue. It is once the lane has given out `PATIENCE` times the work that waited
    before it when it came, and its own; arrival order would have given out that work once. Tickets that became overdue
    between y and x have at most (x - y) / 2 of work, but for the first of them, so none of them waits for more than its
    double, that first one and the longest piece.
    """

    def __init__(self, *, aged: bool) -> None:
        super().__init__()
        self._aged = aged
        self._by_length: list[tuple[float, int, Ticket]] = []
        self._by_due: list[tuple[float, int, Ticket]] = []

    def add(self, ticket: Ticket) -> None:
        super().add(ticket)
        insort(self._by_length, (ticket.spec.cost_mpx_steps, -ticket.sequence, ticket), key=_place)
        if self._aged:
            insort(self._by_due, (ticket.due_at, ticket.sequence, ticket), key=_place)

    def remove(self, ticket: Ticket) -> None:
        super().remove(ticket)
        place = bisect_left(self._by_length, (ticket.spec.cost_mpx_steps, -ticket.sequence), key=_place)
        del self._by_length[place]
        if self._aged:
            place = bisect_left(self._by_due, (ticket.due_at, ticket.sequence), key=_place)
            del self._by_due[place]

    def head(self, clock: float) -> Ticket:
        if self._by_due and self._by_due[0][0] <= clock:
            return self._by_due[0][2]
        return self._by_length[-1][2]

    def place(self, ticket: Ticket, clock: float) -> Place:
        if self._aged and ticket.due_at <= clock:
            return (0.0, ticket.due_at)
        return (1.0, -ticket.spec.cost_mpx_steps)

    def longest_within(self, cost: float) -> Ticket | None:
        place = bisect_right(self._by_length, cost, key=itemgetter(0))
        return self._by_length[place - 1][2] if place else None


def make_line(order: Order) -> Line:
    """Make an empty line of this order."""
    return Line() if order is Order.ARRIVAL else LongestLine(aged=order is Order.LONGEST_AGED)


def _place(entry: tuple[float, int, Ticket]) -> tuple[float, int]:
    return entry[0], entry[1]


def _arrival(ticket: Ticket) -> int:
    return ticket.sequence


def _length(ticket: Ticket) -> tuple[float, int]:
    return ticket.spec.cost_mpx_steps, -ticket.sequence
