"""What a rule of choice has to do."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Protocol

from sglang_diffusion_routing.core.line import Order
from sglang_diffusion_routing.core.station import LoadBuckets, Look, Station
from sglang_diffusion_routing.core.worker import WorkerId


class Chance(Protocol):
    """Where chance comes from; `random.Random` is one."""

    def random(self) -> float:
        """Give a number, uniform in [0, 1)."""


class Policy(Protocol):
    """Chooses among the stations of a lane that have room.

    It is told which these are, one by one, and may keep them in an order of its own; `free` holds them by load. Each
    choice is followed by a grant, after which the lane moves the station on in `free`, or takes it out if it is full.

    order: in which work waits. weighs: whether work may wait for a worker that will have finished it sooner than one
    that has room, and jobs go where they will be finished first, not to the worker with the fewest pieces.
    """

    @property
    def order(self) -> Order: ...
    @property
    def weighs(self) -> bool: ...

    def entered(self, station: Station) -> None:
        """The station has got room, or has joined with some."""

    def left(self, station: Station) -> None:
        """The station is full, or has gone."""

    def choose(self, free: LoadBuckets, avoid: AbstractSet[WorkerId], cost: float, now_s: float, look: Look) -> Station:
        """Give the station for the next piece of work; at least one has room and is not to be avoided.

        Args:
            cost: of the work, in megapixel-steps.
            look: how many stations need be compared.
        """
