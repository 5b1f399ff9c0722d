"""Whose turn it is: work divided among tenants by their weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from heapq import nlargest
from math import inf

from sglang_diffusion_routing.errors import InvalidField

DEFAULT_WEIGHT = 1.0
"""The weight of a tenant that was given none."""


LEAST_WEIGHT, MOST_WEIGHT = 0.001, 1000.0
REMEMBERED = 4096
"""Tenants whose turns are remembered; at the cap those are forgotten that had the least."""


def parse_weights(entries: Iterable[str]) -> dict[str, float]:
    """Read weights of tenants, each as NAME=WEIGHT.

    Raises:
        InvalidField: one is not of that form, its weight is not a number from 0.001 to 1000, or a name comes twice.
    """
    weights: dict[str, float] = {}
    for entry in entries:
        name, _, text = entry.rpartition("=")
        try:
            weight = float(text)
        except ValueError:
            weight = 0.0
        if not name or not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
            raise InvalidField("tenant_weights", f"{entry!r} is not NAME=WEIGHT with a weight from 0.001 to 1000")
        if name in weights:
            raise InvalidField("tenant_weights", f"{name!r} has two weights")
        weights[name] = weight
    return weights


class Tenants:
    """Those who share the workers, and by which weights.

    several: whether work of more than one has ever waited; until then nobody need take turns.
    """

    __slots__ = ("_first", "_weights", "several")

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = weights or {}
        self._first: str | None = None
        self.several = False

    def weight_of(self, tenant: str) -> float:
        """Give a tenant's weight, above 0."""
        return self._weights.get(tenant, DEFAULT_WEIGHT)

    def see(self, tenant: str) -> None:
        """Note that work of a tenant waits."""
        if self._first is None:
            self._first = tenant
        self.several = self.several or tenant != self._first


class Turns:
    """Turns of tenants whose work waits for the same workers, with the same priority.

    Start-time fair queueing (Goyal, Vin, Cheng: "Start-Time Fair Queueing", IEEE/ACM Transactions on Networking 5/5,
    1997): a tenant's next piece begins, in virtual time, when its last one ends, but not before now; it ends after its
    work divided by the tenant's weight; now is the beginning of the piece that was given out last. Whoever begins first
    is next. So of tenants that have had work waiting all the time, none has been given more than its share by more than
    one piece, whatever the others ask for, and who had none waiting has saved nothing up.

    Virtual time is in megapixel-steps per weight. To be dropped when nothing waits any more.
    """

    __slots__ = ("_ends", "_now", "_tenants")

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants
        self._now = 0.0
        self._ends: dict[str, float] = {}

    def of(self, tenant: str) -> float:
        """Give the instant at which a tenant's next piece begins: the lowest is next."""
        return max(self._ends.get(tenant, 0.0), self._now)

    def first(self, tenants: Iterable[str]) -> str | None:
        """Give the tenant that is next, of those that begin at the same instant the first; None if there is none."""
        chosen, lowest = None, inf
        for tenant in tenants:
            begins = self._ends.get(tenant, 0.0)
            if begins <= self._now:
                return tenant
            if begins < lowest:
                chosen, lowest = tenant, begins
        return chosen

    def give(self, tenant: str, cost: float, *, in_turn: bool = True) -> None:
        """Note that a tenant was given work of this cost.

        Args:
            in_turn: whether it was next; what goes before its turn is counted, but ends nobody else's claims.
        """
        begins = self.of(tenant)
        if in_turn:
            self._now = begins
        if len(self._ends) >= REMEMBERED and tenant not in self._ends:
            last = nlargest(REMEMBERED // 2, self._ends, key=self._ends.__getitem__)
            self._ends = {other: self._ends[other] for other in last}
        self._ends[tenant] = begins + cost / self._tenants.weight_of(tenant)


class Backlog:
    """What of a tenant's work waits in a lane.

    count: of tickets. weight: the tenant's. work_of: by priority, in megapixel-steps.
    """

    __slots__ = ("count", "weight", "work_of")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.count = 0
        self.work_of: dict[int, float] = {}

    def add(self, level: int, cost: float) -> None:
        """Count a ticket."""
        self.count += 1
        self.work_of[level] = self.work_of.get(level, 0.0) + cost

    def remove(self, level: int, cost: float) -> None:
        """Count a ticket no more."""
        self.count -= 1
        self.work_of[level] -= cost

    def ahead_of(self, level: int) -> float:
        """Give the work that waits before a newcomer of this priority."""
        return sum(work for other, work in self.work_of.items() if other >= level)
