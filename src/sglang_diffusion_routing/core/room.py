"""Who has how much of the queue, and whose place in a full one is somebody else's."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import nlargest
from typing import NamedTuple

from sglang_diffusion_routing.core.limits import QueueLimits
from sglang_diffusion_routing.core.shares import Tenants
from sglang_diffusion_routing.core.work import Ticket

OTHERS = "(others)"
"""The one tenant that all are beyond the largest number."""


class Holding(NamedTuple):
    """What of a tenant's work waits. weight: of its share in the queue."""

    tenant: str
    requests: int
    size_bytes: int
    weight: float


class Room:
    """Counts what each tenant has in the queue.

    A full queue is shared by weight as work is: who has less of it than its share is let in at the expense of whoever
    has most beyond theirs, of what came last (fair dropping from the longest queue, newest first: McKenney, "Stochastic
    Fairness Queuing", INFOCOM 1990).
    """

    def __init__(self, limits: QueueLimits, tenants: Tenants) -> None:
        self._limits = limits
        self._tenants = tenants
        self._places: dict[str, _Place] = {}

    def name(self, tenant: str) -> str:
        """Give the name under which a tenant's work waits."""
        return tenant if tenant in self._places or len(self._places) < self._limits.max_tenants else OTHERS

    def enter(self, ticket: Ticket) -> None:
        """Count a ticket."""
        tenant = ticket.key.tenant
        place = self._places.get(tenant)
        if place is None:
            place = self._places[tenant] = _Place(self._tenants.weight_of(tenant))
        place.enter(ticket)

    def leave(self, ticket: Ticket) -> None:
        """Count a ticket no more."""
        tenant = ticket.key.tenant
        place = self._places[tenant]
        place.requests -= 1
        place.size_bytes -= ticket.spec.size_bytes
        if not place.requests:
            del self._places[tenant]

    def largest(self, count: int) -> list[Holding]:
        """Give what those have who have most requests waiting."""
        holdings = (Holding(name, p.requests, p.size_bytes, p.weight) for name, p in self._places.items())
        return nlargest(count, holdings, key=lambda holding: holding.requests)

    def make(self, tenant: str, requests: int, size_bytes: int, more_bytes: int) -> list[Ticket]:
        """Say who must go so that one more ticket of a tenant fits; nobody when it has no right to that.

        Work that a worker has failed was let in before, and stays.

        Args:
            requests, size_bytes: what is too much, at most 0 if nothing.
            more_bytes: what the ticket adds.
        """
        places = self._places
        mine = places.get(tenant) or _Place(self._tenants.weight_of(tenant))
        total = sum(place.weight for place in places.values()) + (mine.weight if tenant not in places else 0.0)
        share_requests, share_bytes = self._limits.max_requests / total, self._limits.max_bytes / total
        if requests > 0 and mine.requests + 1 > share_requests * mine.weight:
            return []
        if size_bytes > 0 and mine.size_bytes + more_bytes > share_bytes * mine.weight:
            return []
        gone: list[Ticket] = []
        above = [_Above(place, share_requests, share_bytes) for name, place in places.items() if name != tenant]
        while above and (requests > 0 or size_bytes > 0):
            most = max(above, key=_Above.by_requests if requests > 0 else _Above.by_bytes)
            ticket = most.give_up(by_requests=requests > 0)
            if ticket is None:
                above.remove(most)
            else:
                gone.append(ticket)
                requests -= 1
                size_bytes -= ticket.spec.size_bytes
        return gone if requests <= 0 and size_bytes <= 0 else []


class _Place:
    """What a tenant has in the queue. tickets: in order of arrival, some of which may have left."""

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.requests = 0
        self.size_bytes = 0
        self.tickets: list[Ticket] = []

    def enter(self, ticket: Ticket) -> None:
        self.requests += 1
        self.size_bytes += ticket.spec.size_bytes
        if not ticket.spec.avoid:
            if len(self.tickets) > 2 * self.requests + 64:
                self.tickets = [one for one in self.tickets if one.waiting]
            self.tickets.append(ticket)

    def newest(self) -> Iterator[Ticket]:
        return (ticket for ticket in reversed(self.tickets) if ticket.waiting)


class _Above:
    """What a tenant has beyond its share, while places of it are given to somebody else."""

    def __init__(self, place: _Place, share_requests: float, share_bytes: float) -> None:
        self._requests, self._bytes = place.requests, place.size_bytes
        self._share_requests, self._share_bytes = share_requests * place.weight, share_bytes * place.weight
        self._newest = place.newest()

    def by_requests(self) -> float:
        return self._requests / self._share_requests

    def by_bytes(self) -> float:
        return self._bytes / self._share_bytes

    def give_up(self, *, by_requests: bool) -> Ticket | None:
        """Give its newest ticket; None if it has no more than its share, or only work that was let in before."""
        within = self._requests <= self._share_requests if by_requests else self._bytes <= self._share_bytes
        ticket = None if within else next(self._newest, None)
        if ticket is not None:
            self._requests -= 1
            self._bytes -= ticket.spec.size_bytes
        return ticket
