"""How fast a worker is, in megapixel-steps per second, learned from the work that it has finished.

    speed = (sum of w_i x cost_i + P) / (sum of w_i x seconds_i + P / speed of the peers)

The weight w_i of a piece of work halves with every `HALF_LIFE_PIECES` average pieces done after it: a worker forgets by
working, not by resting, so a night's sleep costs nothing. P is `PRIOR_PIECES` average pieces of work: a worker that has
done little is taken to be like the other workers of its model. Large pieces count for more than small ones, in which
what does not grow with the work (encoding, packing) has a larger part.

A piece that took longer than `OUTLIER_FACTOR` times what was expected, or less than that part of it, counts as if it
had taken just that long, so an hour behind somebody else's work moves the estimate no further than a piece of twice
the length. Each further one in a row on the same side may be off by twice as much: a worker that really has become ten
times slower is known for it after a few pieces.

Pieces shorter than `SHORT_S` count together, as one that is as long: no GPU works in so short a time, and learning from
each would cost as much as finding its worker.
"""

from __future__ import annotations

from math import exp2

HALF_LIFE_PIECES = 16.0
PRIOR_PIECES = 1.0
OUTLIER_FACTOR = 2.0
SHORT_S = 0.01
_LONGEST_ROW = 32
_TELLS_FIRST, _TELLS_EVERY = 8, 8
"""Pieces of which a worker's peers learn: its first ones, then every eighth, for learning costs half a microsecond."""
UNKNOWN_SPEED = 1.0
"""Speed of workers of which nothing is known at all, nor of any other: then only ratios of work matter."""


class Speed:
    """The speed of one worker with one model, or of all that there is of a model.

    per_s: megapixel-steps per second, 0 before any work was finished.
    beyond: whose speed is assumed as long as little is known: of a worker's peers, and beyond them of all workers.
    """

    __slots__ = ("_learned", "_pieces", "_row", "_seconds", "_short_s", "_short_work", "_work", "beyond", "per_s")

    def __init__(self, beyond: Speed | None = None) -> None:
        self.beyond = beyond
        self.per_s = 0.0
        self._work = 0.0
        self._seconds = 0.0
        self._pieces = 0.0
        self._row = 0
        self._learned = 0
        self._short_work = 0.0
        self._short_s = 0.0

    @property
    def expected(self) -> float:
        """The speed to plan with, in megapixel-steps per second; above 0."""
        if self.per_s:
            return self.per_s
        return UNKNOWN_SPEED if self.beyond is None else self.beyond.expected

    @property
    def is_known(self) -> bool:
        """Whether anything at all has been learned of which `expected` could be made."""
        return bool(self.per_s) or (self.beyond is not None and self.beyond.is_known)

    @property
    def confidence(self) -> float:
        """How much of the estimate is its own work, from 0 (nothing) to about 0.96 (as much as is remembered)."""
        return self._pieces / (self._pieces + PRIOR_PIECES)

    def learn(self, cost: float, seconds: float) -> None:
        """Take in a finished piece of work, for itself and, now and then, for those beyond.

        Args:
            cost: its work in megapixel-steps, above 0.
            seconds: how long the worker was at it, above 0.
        """
        beyond = self.beyond
        peers = 0.0 if beyond is None else beyond.per_s
        known = self.per_s or peers
        bounded_s = seconds
        if known:
            expected_s = cost / known
            if self._row or not expected_s / OUTLIER_FACTOR <= seconds <= expected_s * OUTLIER_FACTOR:
                bounded_s = self._bounded(seconds, expected_s)
        work, pieces = self._work, self._pieces
        kept = exp2(-cost * pieces / (HALF_LIFE_PIECES * work)) if pieces else 0.0
        self._work = work = work * kept + cost
        self._seconds = spent = self._seconds * kept + bounded_s
        self._pieces = pieces = pieces * kept + 1.0
        if peers:
            prior = PRIOR_PIECES * work / pieces
            self.per_s = (work + prior) / (spent + prior / peers)
        else:
            self.per_s = work / spent
        self._learned += 1
        if beyond is not None and (self._learned <= _TELLS_FIRST or self._learned % _TELLS_EVERY == 0):
            beyond.learn(cost, seconds)

    def gather(self, cost: float, seconds: float) -> None:
        """Take in a piece of work of less than `SHORT_S`, with others of its kind."""
        self._short_work += cost
        self._short_s += seconds
        if self._short_s >= SHORT_S:
            self.learn(self._short_work, self._short_s)
            self._short_work = self._short_s = 0.0

    def _bounded(self, seconds: float, expected_s: float) -> float:
        """Bring a duration within reach of what was expected; `_row` counts outliers, below 0 those that were short."""
        if seconds > expected_s * OUTLIER_FACTOR:
            self._row = min(max(self._row, 0) + 1, _LONGEST_ROW)
            return min(seconds, expected_s * OUTLIER_FACTOR**self._row)
        if seconds < expected_s / OUTLIER_FACTOR:
            self._row = max(min(self._row, 0) - 1, -_LONGEST_ROW)
            return max(seconds, expected_s * OUTLIER_FACTOR**self._row)
        self._row = 0
        return seconds


class Speeds:
    """The speeds of all workers, each with each of its models; what a worker is known for survives its restart.

    At the cap, the worker that was registered or learned longest ago is forgotten.
    """

    def __init__(self, cap: int = 8192) -> None:
        self._cap = cap
        self._all = Speed()
        self._models: dict[tuple[str, ...], Speed] = {}
        self._workers: dict[tuple[str, tuple[str, ...]], Speed] = {}

    def of(self, worker: str, models: tuple[str, ...]) -> Speed:
        """Give the speed of a worker that serves these models; its peers serve the same."""
        key = (worker, models)
        speed = self._workers.pop(key, None)
        if speed is None:
            if len(self._workers) >= self._cap:
                del self._workers[next(iter(self._workers))]
            speed = Speed(self._peers(models))
        self._workers[key] = speed
        return speed

    def _peers(self, models: tuple[str, ...]) -> Speed:
        peers = self._models.get(models)
        if peers is None:
            if len(self._models) >= self._cap:
                del self._models[next(iter(self._models))]
            peers = self._models[models] = Speed(self._all)
        return peers
