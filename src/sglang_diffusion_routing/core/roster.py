"""The workers and what can be read off them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

from sglang_diffusion_routing.core.commands import Command
from sglang_diffusion_routing.core.health import HealthLimits
from sglang_diffusion_routing.core.state import Intent, WorkerState
from sglang_diffusion_routing.core.weights import Ledger
from sglang_diffusion_routing.core.worker import DRAIN_LIMIT_S, Standing, Worker, WorkerId, standing


class Roster:
    """The workers in the order in which they were registered, and what the event being handled has brought.

    `changed` names the workers whose record the last event touched, removed ones included.
    """

    def __init__(self, limits: HealthLimits | None = None, drain_limit_s: float = DRAIN_LIMIT_S) -> None:
        self.ledger = Ledger()
        self._limits = limits or HealthLimits()
        self._drain_limit_s = drain_limit_s
        self._workers: dict[WorkerId, Worker] = {}
        self._routable: set[int] = set()
        self._commands: list[Command] = []
        self._changed: dict[int, Worker] = {}

    @property
    def workers(self) -> Mapping[WorkerId, Worker]:
        return MappingProxyType(self._workers)

    @property
    def changed(self) -> list[Worker]:
        return list(self._changed.values())

    def get(self, worker_id: WorkerId) -> Worker | None:
        return self._workers.get(worker_id)

    def counts_by_status(self) -> Mapping[str, int]:
        """Count the registered workers by the status that is shown."""
        return Counter(worker.status.value for worker in self._workers.values())

    def is_routable(self, worker: Worker) -> bool:
        """Tell whether the worker takes work; an unproven one does while no other worker is routable."""
        match standing(worker):
            case Standing.ROUTABLE:
                return True
            case Standing.UNPROVEN:
                return not self._routable
            case _:
                return False

    @property
    def asleep(self) -> bool:
        """Whether the fleet sleeps: there are workers, and each sleeps, falls asleep or is put to sleep first."""
        staying = [w for w in self._workers.values() if w.intent is not Intent.REMOVE]
        return bool(staying) and all(
            w.sleep_first or w.intent is Intent.SLEEP or w.state in {WorkerState.RELEASING, WorkerState.SLEEPING}
            for w in staying
        )

    def next_deadline_s(self) -> float | None:
        """Give the instant at which the next drain is given up."""
        return min((w.drain_deadline_s for w in self._workers.values() if w.drain_deadline_s is not None), default=None)

    def _begin(self) -> None:
        self._commands = []
        self._changed = {}
        self.ledger.changed = set()

    def _touch(self, worker: Worker) -> None:
        """Note that a worker's record has changed."""
        self._changed[worker.incarnation] = worker
        if standing(worker) is Standing.ROUTABLE:
            self._routable.add(worker.incarnation)
        else:
            self._routable.discard(worker.incarnation)
