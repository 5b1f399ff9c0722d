"""The waiting work that has to be ranked anew, so much of it at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from sglang_diffusion_routing.core.policies.consistent_hash import weight
from sglang_diffusion_routing.core.work import Ticket
from sglang_diffusion_routing.core.worker import WorkerId

HASHES_AT_ONCE = 2048
"""About 2 ms: whoever shares the event loop waits for no longer, with however much work and however many workers."""


class Ranking:
    """Tickets whose first worker may be another one than before, since workers have come or gone.

    Until its turn comes, a ticket waits for the worker that was its first before; who is given to that one meanwhile
    might as well have been a moment sooner.
    """

    __slots__ = ("_due", "_order")

    def __init__(self) -> None:
        # With the workers that have come since it was ranked; None where its own has gone, or there is no telling.
        self._due: dict[Ticket, AbstractSet[WorkerId] | None] = {}
        self._order: deque[Ticket] = deque()

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self._due

    def add(self, tickets: Iterable[Ticket], joined: AbstractSet[WorkerId] | None) -> None:
        """Have these ranked.

        Args:
            joined: the workers that alone may rank before those that the tickets wait for; None if any may.
        """
        due, order = self._due, self._order
        for ticket in tickets:
            if ticket not in due:
                order.append(ticket)
                due[ticket] = joined
            else:
                known = due[ticket]
                due[ticket] = None if joined is None or known is None else known | joined

    def take(self, workers: int) -> Iterable[Ticket]:
        """Take out what the time of one turn is enough for, and give those that are not where they belong for certain.

        Args:
            workers: how many there are to be ranked, at most.
        """
        left = HASHES_AT_ONCE
        while self._order and left > 0:
            ticket = self._order.popleft()
            joined = self._due.pop(ticket)
            if not ticket.waiting:
                continue
            if joined is not None:
                left -= 1 + len(joined)
                if _is_first(ticket, joined):
                    continue
            left -= workers
            yield ticket


def _is_first(ticket: Ticket, joined: AbstractSet[WorkerId]) -> bool:
    """Tell whether none of these workers ranks before the one that a ticket waits for."""
    bound, digest = ticket.key.bound, ticket.spec.digest
    if bound is None:
        return False
    its = weight(digest, bound)
    return all(weight(digest, worker_id) <= its for worker_id in joined)
