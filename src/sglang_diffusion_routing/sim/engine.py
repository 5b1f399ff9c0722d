"""The scheduler process of a worker: one thread that does one thing at a time, first come first served.

Generations, checksums, refits, sleep and waking all wait in this one queue, which has no bound; what was asked for is
done even when nobody waits for it any more.
"""

import asyncio
import contextlib
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import Any, TypeVar

from sglang_diffusion_routing.sim.faults import Faults
from sglang_diffusion_routing.sim.settings import SimSettings

T = TypeVar("T")

REMEMBERED = 10_000  # finished pieces of work kept for /sim/state


class SchedulerDead(Exception):
    """The scheduler is gone, and with it everything that waited for it."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A piece of work that has ended.

    Times are Unix seconds. weights: the transformer's checksum while it ran. samples: how many a generation made.
    """

    id: str
    kind: str
    samples: int
    queued_s: float
    started_s: float
    finished_s: float
    weights: str
    ok: bool


@dataclass(frozen=True, slots=True)
class _Item:
    id: str
    kind: str
    queued_s: float
    work: "Callable[[Turn], Any]"
    future: "Future[Any]"


class Turn:
    """One piece of work's time on the engine."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._started_s = time.monotonic()
        self._seconds = 0.0
        self.weights = ""
        self.samples = 0

    def take(self, seconds: float) -> None:
        """Set how long this work takes in all, before speed, jitter and faults; `reach` then spends it."""
        self._seconds = self._engine.modelled(seconds)

    def block_loop(self, fraction: float) -> None:
        """Keep the HTTP loop from answering for this part of the work's time."""
        self._engine.block_loop(fraction * self._seconds)

    def reach(self, share: float) -> None:
        """Wait until this share of the work's time has passed since its start.

        Raises:
            SchedulerDead: the scheduler died while waiting.
        """
        left_s = self._started_s + share * self._seconds - time.monotonic()
        self._engine.wait(max(left_s, 0.0))

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started_s


class Engine:
    """The queue and its thread. Everything but the work itself runs on the event loop."""

    def __init__(self, settings: SimSettings, faults: Faults) -> None:
        self.faults = faults
        self.failure: str | None = None
        self.finished: deque[Finished] = deque(maxlen=REMEMBERED)
        self.done = 0
        self._settings = settings
        self._rng = random.Random(settings.seed)
        self._items: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._waiting: deque[_Item] = deque()
        self._running: _Item | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def queued(self) -> int:
        """Number of pieces of work that wait for the one running."""
        return len(self._waiting)

    @property
    def running(self) -> str | None:
        """Kind of the work that runs now."""
        item = self._running
        return None if item is None else item.kind

    async def run(self, kind: str, work: Callable[[Turn], T], *, request_id: str = "") -> T:
        """Queue a piece of work and wait for its end; the work is done even when the caller is cancelled.

        Raises:
            SchedulerDead: before, or while the work waited or ran.
        """
        return await asyncio.wrap_future(self.submit(kind, work, request_id=request_id))

    def submit(self, kind: str, work: Callable[[Turn], T], *, request_id: str = "") -> "Future[T]":
        """Queue a piece of work."""
        future: Future[T] = Future()
        item = _Item(id=request_id, kind=kind, queued_s=time.time(), work=work, future=future)
        with self._lock:
            if self.failure is not None:
                future.set_exception(SchedulerDead(self.failure))
                return future
            self._waiting.append(item)
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._serve, name="sim-engine", daemon=True)
            self._thread.start()
        self._items.put(item)
        return future

    def die(self, reason: str) -> None:
        """End the scheduler now: running, waiting and coming work all fail with `reason`."""
        with self._lock:
            self.failure = reason
            self._stopped.set()
            lost = [item for item in (self._running, *self._waiting) if item is not None]
            self._waiting.clear()
        self._items.put(None)
        for item in lost:
            with contextlib.suppress(InvalidStateError):  # it ended this very moment
                item.future.set_exception(SchedulerDead(reason))

    def modelled(self, seconds: float) -> float:
        """Apply speed, jitter and slowness to a duration."""
        jitter = 1.0 + self._settings.jitter * self._rng.uniform(-1.0, 1.0)
        return seconds * jitter * self.faults.slow_factor / self._settings.speed

    def wait(self, seconds: float) -> None:
        """Let time pass on the engine's thread."""
        if self._stopped.wait(seconds):
            raise SchedulerDead(self.failure or "")

    def block_loop(self, seconds: float) -> None:
        """Make the event loop sleep, as packing a large reply does."""
        if seconds > 0 and self._loop is not None:
            self._loop.call_soon_threadsafe(time.sleep, seconds)

    def _serve(self) -> None:
        while (item := self._items.get()) is not None:
            with self._lock:
                if self._stopped.is_set():
                    return
                self._waiting.popleft()
                self._running = item
            self._do(item)
            self._running = None

    def _do(self, item: _Item) -> None:
        started_s = time.time()
        turn = Turn(self)
        result: Any = None
        error: Exception | None = None
        try:
            result = item.work(turn)
        except Exception as caught:  # noqa: BLE001 - the boundary of one piece of work: whoever waits for it gets the error
            error = caught
        self.done += 1
        self.finished.append(
            Finished(
                id=item.id,
                kind=item.kind,
                samples=turn.samples,
                queued_s=item.queued_s,
                started_s=started_s,
                finished_s=time.time(),
                weights=turn.weights,
                ok=error is None,
            )
        )
        with contextlib.suppress(InvalidStateError):  # the scheduler died meanwhile
            if error is None:
                item.future.set_result(result)
            else:
                item.future.set_exception(error)
