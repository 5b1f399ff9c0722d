"""What the control rooms need of the room above them, which owns pool and scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sglang_diffusion_routing.control.worker_api import Answer
from sglang_diffusion_routing.core.affinity import Affinity
from sglang_diffusion_routing.core.commands import Outcome
from sglang_diffusion_routing.core.events import Event, HoldRequested, RefitRequested, SleepRequested, WakeRequested
from sglang_diffusion_routing.core.pool import Pool
from sglang_diffusion_routing.core.scheduler import Scheduler
from sglang_diffusion_routing.core.work import WorkSpec
from sglang_diffusion_routing.errors import RouterError

Requested = HoldRequested | RefitRequested | SleepRequested | WakeRequested
"""What may be asked of a worker and waited for."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How what was asked of a worker ended.

    reason: the worker's own words, or why; empty when done.
    answer: the worker's answer to the call that ended it, None when no call was made for it.
    """

    outcome: Outcome
    reason: str = ""
    answer: Answer | None = None


class Fleet(Protocol):
    """The owner of pool, scheduler and affinity."""

    @property
    def pool(self) -> Pool: ...
    @property
    def scheduler(self) -> Scheduler: ...
    @property
    def affinity(self) -> Affinity: ...

    def now_s(self) -> float:
        """The instant, on the loop's clock."""

    def apply(self, event: Event) -> None:
        """Take in what happened, and do what follows from it.

        Raises:
            UnknownWorker, Conflict: for what was asked of a worker; nothing was changed.
        """

    def ask(self, event: Requested) -> asyncio.Future[Ending]:
        """Ask something of a worker; the future ends with it, whatever becomes of the worker.

        Raises:
            UnknownWorker, Conflict: nothing was changed.
        """

    def pause(self) -> None:
        """Hold the queue."""

    def resume(self) -> None:
        """Let the queue go on."""

    def drop_queued(self, error: RouterError, matches: Callable[[WorkSpec], bool] | None = None) -> int:
        """Refuse what is queued, all of it or what matches, and tell how much that was."""
