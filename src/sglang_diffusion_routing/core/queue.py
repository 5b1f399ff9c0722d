"""The bounds, the order and the deadlines of waiting work."""

from __future__ import annotations

import heapq
from collections import Counter

from sglang_diffusion_routing.core.limits import QueueLimits
from sglang_diffusion_routing.core.room import Room
from sglang_diffusion_routing.core.shares import Tenants
from sglang_diffusion_routing.core.work import LineKey, Ticket, Waiter, WorkSpec

_FIRST_RETRY = -(1 << 62)


class Queue:
    """Keeps count of the tickets; which line a ticket stands in is its lane's affair.

    A ticket's sequence is its place: lower is earlier. Work that a worker has failed already was admitted before and
    has had its turn: it goes ahead of work that has not, and is never turned away for want of room.
    """

    def __init__(self, limits: QueueLimits, tenants: Tenants | None = None) -> None:
        self._limits = limits
        self.room = Room(limits, Tenants() if tenants is None else tenants)
        self._sequence = 0
        self._retry_sequence = _FIRST_RETRY
        self._deadlines: list[tuple[float, int, Ticket]] = []
        self._demands: Counter[str] = Counter()
        self._floors = 0
        self.count = 0
        self.size_bytes = 0

    @property
    def has_demands(self) -> bool:
        """Whether anything waits that not every worker's weights are new enough for."""
        return bool(self._demands or self._floors)

    def met(self, spec: WorkSpec) -> str | None:
        """Name the bound that this work would break, None if there is room for it."""
        limits = self._limits
        if spec.avoid:
            return None
        if self.count >= limits.max_requests:
            return f"{limits.max_requests} requests"
        if self.size_bytes + spec.size_bytes > limits.max_bytes:
            return f"{limits.max_bytes} bytes"
        wanted = spec.min_version
        if wanted is not None and wanted not in self._demands and len(self._demands) >= limits.max_demands:
            return f"{limits.max_demands} different weight versions"
        return None

    def make_room(self, spec: WorkSpec) -> list[Ticket]:
        """Say which tickets must leave so that there is room for work that has more right to it; none if it has not."""
        limits, wanted = self._limits, spec.min_version
        if wanted is not None and wanted not in self._demands and len(self._demands) >= limits.max_demands:
            return []
        return self.room.make(
            self.room.name(spec.tenant),
            self.count + 1 - limits.max_requests,
            self.size_bytes + spec.size_bytes - limits.max_bytes,
            spec.size_bytes,
        )

    def enter(self, spec: WorkSpec, waiter: Waiter, now_s: float, key: LineKey | None = None) -> Ticket:
        """Give a ticket; whether there is room was asked before.

        Args:
            key: what it waits for, if that is not just what the client asked for.
        """
        if spec.avoid:
            self._retry_sequence += 1
            sequence = self._retry_sequence
        else:
            self._sequence += 1
            sequence = self._sequence
        ticket = Ticket(spec, waiter, now_s, sequence, key)
        if spec.tenant:
            ticket.key = ticket.key._replace(tenant=self.room.name(spec.tenant))
        self.room.enter(ticket)
        self._floors += bool(ticket.key.floor)
        self.count += 1
        self.size_bytes += spec.size_bytes
        if spec.min_version is not None:
            self._demands[spec.min_version] += 1
        self.remind(ticket, now_s)
        return ticket

    def remind(self, ticket: Ticket, now_s: float) -> None:
        """See to it that a waiting ticket is due once more: at its deadline, or when its demand has waited too long."""
        spec = ticket.spec
        due_s = spec.deadline_s
        if spec.min_version is not None:
            waited_s = now_s + self._limits.weights_wait_s
            due_s = waited_s if due_s is None else min(due_s, waited_s)
        if due_s is not None:
            self._drop_stale_deadlines()
            heapq.heappush(self._deadlines, (due_s, ticket.sequence, ticket))

    def change(self, ticket: Ticket, key: LineKey) -> None:
        """Take in that a ticket is about to wait for something else."""
        self._floors += bool(key.floor) - bool(ticket.key.floor)

    def leave(self, ticket: Ticket) -> None:
        """Take a ticket back, however its waiting has ended."""
        ticket.waiting = False
        self._floors -= bool(ticket.key.floor)
        self.room.leave(ticket)
        self.count -= 1
        self.size_bytes -= ticket.spec.size_bytes
        wanted = ticket.spec.min_version
        if wanted is not None:
            self._demands[wanted] -= 1
            if not self._demands[wanted]:
                del self._demands[wanted]

    def due(self, now_s: float) -> list[Ticket]:
        """Give the waiting tickets whose time has come, earliest first; each is given once, and again when reminded."""
        due: list[Ticket] = []
        while self._deadlines and self._deadlines[0][0] <= now_s:
            ticket = heapq.heappop(self._deadlines)[2]
            if ticket.waiting:
                due.append(ticket)
        return due

    def next_deadline_s(self) -> float | None:
        """Give the instant at which `due` may have something."""
        while self._deadlines and not self._deadlines[0][2].waiting:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def _drop_stale_deadlines(self) -> None:
        # Tickets that were granted stay in the heap until their deadline; half of it may be such, and no more.
        if len(self._deadlines) > 2 * self.count + 64:
            self._deadlines = [entry for entry in self._deadlines if entry[2].waiting]
            heapq.heapify(self._deadlines)
