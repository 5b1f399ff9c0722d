"""Decide who is next in a refit: all at once, or a few at a time so that capacity stays up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from sglang_diffusion_routing.core.state import Health
from sglang_diffusion_routing.core.weights import Currency
from sglang_diffusion_routing.core.worker import Worker, WorkerId


class Verdict(Enum):
    """What one worker's end says about the refit."""

    UPDATED = "updated"
    FAILED = "failed"
    """It refused the weights or was lost over them: others may do the same."""
    MISSED = "missed"
    """It dropped out for a reason of its own: its drain took too long, it was removed, something else was asked."""


@dataclass(slots=True)
class Waves:
    """The workers of one refit that have not begun, and how many are under way.

    A refit that fails before it has succeeded anywhere begins with nobody else: those keep serving what they have.
    Where several are under way at that moment, one of them may still prove it right, and then it goes on.

    waiting: in the order of registration. at_once: how many may be out of service together, None for all.
    """

    waiting: list[Worker]
    at_once: int | None = None
    under_way: int = 0
    updated: int = 0
    failed: int = 0

    def begin(self, in_flight: Callable[[WorkerId], int]) -> list[Worker]:
        """Take out those that begin now: first who serves nobody as it is, then who has least to finish.

        Args:
            in_flight: leases of a worker at this moment; the choice is made anew for each wave.
        """
        if self.at_once is None:
            begun, self.waiting = self.waiting, []
        elif self.failed and not self.updated:
            return []
        else:
            room = max(0, self.at_once - self.under_way)
            begun = sorted(self.waiting, key=lambda worker: (_serves(worker), in_flight(worker.worker_id)))[:room]
            self.waiting = _without(self.waiting, begun)
        self.under_way += len(begun)
        return begun

    def ended(self, verdict: Verdict) -> None:
        """Note the end of one that had begun."""
        self.under_way -= 1
        self.updated += verdict is Verdict.UPDATED
        self.failed += verdict is Verdict.FAILED

    @property
    def over(self) -> bool:
        """Whether nobody is under way, and nobody will be: whoever still waits is left as it is."""
        stopped = self.at_once is not None and self.failed > 0 and not self.updated
        return not self.under_way and (stopped or not self.waiting)


def _serves(worker: Worker) -> bool:
    return worker.currency is Currency.CURRENT and worker.health is Health.HEALTHY


def _without(workers: Iterable[Worker], taken: Iterable[Worker]) -> list[Worker]:
    gone = {worker.worker_id for worker in taken}
    return [worker for worker in workers if worker.worker_id not in gone]
