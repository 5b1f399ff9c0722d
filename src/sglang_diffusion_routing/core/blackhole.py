"""Workers that swallow work: they fail it fast, look idle, and so draw more of it."""

from __future__ import annotations

from dataclasses import dataclass

from sglang_diffusion_routing.core.worker import WorkerId

STREAK = 5
"""Failures in a row that are no accident."""


@dataclass(slots=True)
class _Streak:
    """failures: in a row. since: the tick at which the row began."""

    failures: int
    since: int


class BlackHoles:
    """Counts, for each worker and route, the pieces of work in a row that ended with 5xx.

    A client that sends nonsense fails everywhere; a worker is to blame only if another has done the same kind of work
    well since its row began. After an accusation the row goes on: a worker that is let in again and fails its first
    piece of work is accused at once, if another has succeeded in the meantime.
    """

    def __init__(self, streak: int = STREAK) -> None:
        self._limit = streak
        self._streaks: dict[WorkerId, dict[str, _Streak]] = {}
        self._last_success: dict[str, int] = {}
        self._tick = 0

    def note(self, worker_id: WorkerId, route: str, *, ok: bool) -> bool:
        """Note how a piece of work ended.

        Args:
            route: name of the route, of a bounded set.
            ok: a complete reply below 500 (4xx counts against nobody); False for 5xx. Other ends are not noted.

        Returns:
            True if the worker is to blame.
        """
        self._tick += 1
        if ok:
            self._last_success[route] = self._tick
            routes = self._streaks.get(worker_id)
            if routes is not None and routes.pop(route, None) is not None and not routes:
                del self._streaks[worker_id]
            return False
        streak = self._streaks.setdefault(worker_id, {}).setdefault(route, _Streak(0, self._tick))
        streak.failures += 1
        if streak.failures < self._limit or self._last_success.get(route, 0) < streak.since:
            return False
        streak.since = self._tick
        return True

    def forget(self, worker_id: WorkerId) -> None:
        """Forget a worker that was removed or restarted."""
        self._streaks.pop(worker_id, None)
