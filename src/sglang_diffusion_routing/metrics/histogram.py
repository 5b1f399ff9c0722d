"""Count by size, cheaply: a list of integers and a sum."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

WORK_S = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
    *(10.0, 20.0, 40.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0),
)
"""Bounds for what happens to work: a small read takes milliseconds, a picture seconds, a film up to half an hour."""
LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Bounds for how late an event loop is: beyond 5 s it has stopped."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """How often each size came up.

    bounds: ascending. counts: of what is at most each of them and above the one before; one more, for what is above
    all. total: the sum of all sizes.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


class Histogram:
    """How often each size has come up so far; its parts are those of a `Distribution`."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, size: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, size)] += 1
        self.total += size

    def read(self, more: int = 0, more_total: float = 0.0) -> Distribution:
        """Give what there is now.

        Args:
            more: that many more, of at most the first bound each, whose sum is `more_total`.
        """
        first, *others = self.counts
        return Distribution(self.bounds, (first + more, *others), self.total + more_total)
