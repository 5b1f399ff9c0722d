"""What happens, for those who watch: leases that end, workers that change, in the order in which it happened."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from sglang_diffusion_routing.core.work import Lease, Result
from sglang_diffusion_routing.core.worker import Worker, WorkerId, WorkerStatus

REMEMBERED = 4096
"""Pieces of work, and changes of workers, that one who comes later is still told of; about 2 MB in all."""
BEHIND = 8192
"""News that one watcher may have waiting; who takes none for so long is told to look anew."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A piece of work that has ended. Instants are on the loop's clock; `began_s` is its arrival at the worker.

    piece: number of its lease.
    """

    worker: WorkerId
    route: str
    began_s: float
    ended_s: float
    queued_s: float
    weights: str | None
    result: str
    status: int
    piece: int


@dataclass(frozen=True, slots=True)
class Change:
    """A worker's shown status is another one; `before` is None when it is new."""

    at_s: float
    worker: WorkerId
    before: str | None
    now: str


News = Bar | Change


class Watcher:
    """One who watches: takes what has happened since the last time.

    lost: more has happened than can be kept for it.
    """

    def __init__(self) -> None:
        self._news: deque[News] = deque()
        self.lost = False

    def tell(self, news: News) -> None:
        if len(self._news) >= BEHIND:
            self._news.clear()
            self.lost = True
        else:
            self._news.append(news)

    def take(self) -> list[News]:
        """Give the news, oldest first; each once."""
        news = list(self._news)
        self._news.clear()
        return news


class Watch:
    """Tells watchers of what happens. While nobody watches, work that ends is not looked at.

    Args:
        now_s: the loop's clock.

    Attributes:
        is_watched: whether anybody does; looked at for every request.
    """

    __slots__ = ("_bars", "_changes", "_closing", "_now_s", "_watchers", "is_watched")

    def __init__(self, now_s: Callable[[], float]) -> None:
        self.is_watched = False
        self._closing = asyncio.Event()
        self._now_s = now_s
        self._watchers: set[Watcher] = set()
        self._bars: deque[Bar] = deque(maxlen=REMEMBERED)
        self._changes: deque[Change] = deque(maxlen=REMEMBERED)

    @property
    def count(self) -> int:
        """Number of watchers."""
        return len(self._watchers)

    def join(self) -> Watcher:
        """Begin to watch."""
        watcher = Watcher()
        self._watchers.add(watcher)
        self.is_watched = True
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """Watch no more; what work has left behind is forgotten with the last watcher."""
        self._watchers.discard(watcher)
        self.is_watched = bool(self._watchers)
        if not self._watchers:
            self._bars.clear()

    def close(self) -> None:
        """The router ends: nobody is to wait for more."""
        self._closing.set()

    async def closed_within(self, seconds: float) -> bool:
        """Wait so long; tell at once when the router ends."""
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return False
        return True

    def past(self) -> list[News]:
        """Give what is remembered, oldest first."""
        return sorted([*self._changes, *self._bars], key=_instant)

    def ended(self, lease: Lease, result: Result, status: int) -> None:
        """A lease has ended."""
        worker = lease.worker
        bar = Bar(
            worker.worker_id,
            lease.spec.route,
            lease.granted_s,
            self._now_s(),
            lease.queued_s,
            worker.weight_version,
            result.name.lower(),
            status,
            lease.lease_id,
        )
        self._bars.append(bar)
        self._tell(bar)

    def changed(self, worker: Worker, before: WorkerStatus | None) -> None:
        """A worker's shown status has changed."""
        was = None if before is None else before.value
        change = Change(self._now_s(), worker.worker_id, was, worker.status.value)
        self._changes.append(change)
        self._tell(change)

    def _tell(self, news: News) -> None:
        for watcher in self._watchers:
            watcher.tell(news)


def _instant(news: News) -> float:
    return news.ended_s if isinstance(news, Bar) else news.at_s
