"""The tickets that wait in one lane: in lines of alike, and those that are tied to one worker apart from the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import chain
from math import inf

from sglang_diffusion_routing.core.line import PATIENCE, Line, Order, make_line
from sglang_diffusion_routing.core.shares import Backlog, Tenants, Turns
from sglang_diffusion_routing.core.work import LineKey, Ticket, WorkSpec
from sglang_diffusion_routing.core.worker import WorkerId

_NO_LINES: Mapping[LineKey, Mapping[str, Line]] = {}
Rank = tuple[float, float, float, float, int]
"""Of two tickets in different lines, the one with the lower rank is next; no two have the same."""


class Lines:
    """Where each ticket of a lane stands, by what it ages, and whose turn it is.

    A worker that comes free is of no use to what is tied to another one. So a release looks at the shared lines and at
    its own worker's, however many tickets are tied to however many others.

    shared: lines of tickets that any worker may take. tied: the others, by their worker. Lines that differ in nothing
    but their tenants are of one kind: what may be done with one of them may be done with all.
    Tenants take turns (`core/shares.py`), and tickets age by their tenant's share: by the work given out, divided by
    the weight of all tenants who wait. With one tenant that is all work, and it is always its turn.

    count: number of tickets; levels: the same by priority. work: of all of them, in megapixel-steps.
    given_out: of all that were granted, in megapixel-steps per weight. turns: by priority.
    """

    __slots__ = (
        "_backlogs",
        "_kinds",
        "_order",
        "_tenants",
        "_weight",
        "count",
        "given_out",
        "levels",
        "shared",
        "tied",
        "turns",
        "work",
    )

    def __init__(self, order: Order, tenants: Tenants | None = None) -> None:
        self._order = order
        self._tenants = Tenants() if tenants is None else tenants
        self._weight = 0.0
        self._backlogs: dict[str, Backlog] = {}
        self._kinds: dict[WorkerId | None, dict[LineKey, dict[str, Line]]] = {}
        self.turns: dict[int, Turns] = {}
        self.shared: dict[LineKey, Line] = {}
        self.tied: dict[WorkerId, dict[LineKey, Line]] = {}
        self.count = 0
        self.levels: dict[int, int] = {}
        self.work = 0.0
        self.given_out = 0.0

    @property
    def clock(self) -> float:
        """What tickets age by; it stands still while arrival alone decides which of a tenant's is next."""
        return -inf if self._order is Order.ARRIVAL and len(self.levels) < 2 else self.given_out

    def __iter__(self) -> Iterator[Ticket]:
        """Give all tickets, line by line."""
        return chain.from_iterable(line for _, line in self.items())

    def items(self) -> Iterable[tuple[LineKey, Line]]:
        """Give all lines."""
        return chain(self.shared.items(), *(lines.items() for lines in self.tied.values()))

    def kinds(self, worker_id: WorkerId | None) -> Iterable[tuple[LineKey, Mapping[str, Line]]]:
        """Give the lines whose tickets one worker may take, or any may, kind by kind, each with its lines by tenant.

        A kind is given as the key of the unnamed tenant's line.
        """
        kinds = self._kinds
        if worker_id is None:
            return chain.from_iterable(some.items() for some in kinds.values())
        free, tied = kinds.get(None, _NO_LINES), kinds.get(worker_id)
        return free.items() if tied is None else chain(free.items(), tied.items())

    def line(self, key: LineKey) -> Line:
        """Give the line of such tickets.

        Raises:
            KeyError: there is none.
        """
        return (self.shared if key.bound is None else self.tied[key.bound])[key]

    def add(self, ticket: Ticket) -> None:
        """Let a ticket wait behind those of its kind."""
        cost, level, backlog = ticket.spec.cost_mpx_steps, ticket.spec.priority, self._backlog(ticket.key.tenant)
        # Work that failed elsewhere has had its turn.
        before = backlog.ahead_of(level) + cost
        ticket.due_at = -inf if ticket.spec.avoid else self.given_out + PATIENCE * before / backlog.weight
        backlog.add(level, cost)
        self.count += 1
        self.work += cost
        self.levels[level] = self.levels.get(level, 0) + 1
        self._stand(ticket)

    def _backlog(self, tenant: str) -> Backlog:
        backlog = self._backlogs.get(tenant)
        if backlog is None:
            self._tenants.see(tenant)
            backlog = self._backlogs[tenant] = Backlog(self._tenants.weight_of(tenant))
            self._weight += backlog.weight
        return backlog

    def _leave(self, tenant: str, level: int, cost: float) -> None:
        backlog = self._backlogs[tenant]
        backlog.remove(level, cost)
        if not backlog.count:
            del self._backlogs[tenant]
            self._weight = self._weight - backlog.weight if self._backlogs else 0.0

    def remove(self, ticket: Ticket) -> None:
        """Take a ticket out."""
        cost, level = ticket.spec.cost_mpx_steps, ticket.spec.priority
        self._step_out(ticket)
        self.count -= 1
        self.work -= cost
        self._leave(ticket.key.tenant, level, cost)
        self.levels[level] -= 1
        if not self.levels[level]:
            del self.levels[level]
            if not self.count:
                self.work = 0.0
                self.turns.clear()

    def front(
        self, lines: Mapping[str, Line], wait: AbstractSet[Line], clock: float, judge: Lines | None = None
    ) -> tuple[Rank, Ticket, Line] | None:
        """Give which ticket of a kind is next, with its rank and its line; None if all of its lines have to wait.

        Args:
            wait: lines that have to.
            clock, judge: as for `rank`.
        """
        if len(lines) == 1:
            (line,) = lines.values()
            if line in wait:
                return None
            ticket = line.head(clock)
            return self.rank(line, ticket, clock, judge), ticket, line
        may_go: Iterable[Line] = (line for line in lines.values() if line not in wait)
        if len(self.levels) == 1 and judge is None:
            # A thousand tenants are asked for their turns, but not for their tickets.
            (level,) = self.levels
            turns = self.turns.get(level)
            if turns is not None:
                tenant = turns.first(tenant for tenant, line in lines.items() if line not in wait)
                may_go = () if tenant is None else (lines[tenant],)
        heads = ((line, line.head(clock)) for line in may_go)
        return min(((self.rank(line, head, clock, judge), head, line) for line, head in heads), default=None)

    def rank(self, line: Line, ticket: Ticket, clock: float, judge: Lines | None = None) -> Rank:
        """Place a ticket of one of these lines among those of the others.

        Priorities come first, then tenants by their turns, then each one's tickets by the policy's order. Of several
        priorities or lanes what is overdue goes before all of them: its rank begins with minus infinity.

        Args:
            judge: the lane by which turns are told where tickets of several lanes are compared; None for this one.
        """
        late, place = line.place(ticket, clock)
        several = judge is not None or len(self.levels) > 1
        if not late and (several or ticket.due_at == -inf):
            return (-inf, place, 0.0, 0.0, ticket.sequence)
        level = ticket.spec.priority
        turns = (judge or self).turns.get(level)
        turn = 0.0 if turns is None else turns.of(ticket.key.tenant)
        return (-level, turn, late, place, ticket.sequence)

    def grant(self, ticket: Ticket, *, in_turn: bool = True) -> None:
        """Take out a ticket that goes to a worker.

        Args:
            in_turn: whether it was its tenant's turn; False for what is overdue and went before everything.
        """
        cost = ticket.spec.cost_mpx_steps
        if self._tenants.several:
            self._take_turn(ticket.key.tenant, ticket.spec, in_turn=in_turn)
        self.given_out += cost / self._weight
        self.remove(ticket)

    def passed_by(self, tenant: str, spec: WorkSpec) -> None:
        """Note that a tenant was given work of this lane's workers that has not waited here."""
        if self.count and self._tenants.several:
            self._take_turn(tenant, spec, in_turn=False)

    def _take_turn(self, tenant: str, spec: WorkSpec, *, in_turn: bool) -> None:
        if spec.avoid:
            # It was counted when it was first given out.
            return
        turns = self.turns.get(spec.priority)
        if turns is None:
            turns = self.turns[spec.priority] = Turns(self._tenants)
        turns.give(tenant, spec.cost_mpx_steps, in_turn=in_turn)

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
            self._kinds.setdefault(key.bound, {}).setdefault(_kind(key), {})[key.tenant] = line
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
            self._drop_line(key)

    def _drop_line(self, key: LineKey) -> None:
        kinds, kind = self._kinds[key.bound], _kind(key)
        del kinds[kind][key.tenant]
        if not kinds[kind]:
            del kinds[kind]
            if not kinds:
                del self._kinds[key.bound]


def _kind(key: LineKey) -> LineKey:
    return key._replace(tenant="") if key.tenant else key
