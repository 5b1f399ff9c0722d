"""Log one line for every change of a worker's shown status, and tell those who watch.

A refit takes every worker of a fleet through the same steps, and says itself how it went and for whom (`refit_ended`,
`GET /refits/{id}`): its steps are debug. 256 workers have a thousand of them, and lines cost 50 us each.
"""

from __future__ import annotations

from collections import Counter

import structlog

from sglang_diffusion_routing.core.state import Health, WorkerState
from sglang_diffusion_routing.core.worker import Worker, WorkerId, WorkerStatus
from sglang_diffusion_routing.runtime.watch import Watch

_log = structlog.get_logger(__name__)


class Journal:
    """Knows the status that each worker had when it was last looked at.

    Attributes:
        changes: how often a worker has come to have a status. quarantines: or to be taken for unwell, whatever its
            status was then.
    """

    def __init__(self, watch: Watch) -> None:
        self.changes: Counter[WorkerStatus] = Counter()
        self.quarantines = 0
        self._watch = watch
        self._last: dict[WorkerId, WorkerStatus] = {}
        self._unwell: set[WorkerId] = set()

    def note(self, worker: Worker) -> None:
        """Log the worker's status if it is another than before."""
        before, now = self._last.get(worker.worker_id), worker.status
        self._count_unwell(worker)
        if worker.state is WorkerState.REMOVED:
            self._last.pop(worker.worker_id, None)
        else:
            self._last[worker.worker_id] = now
        if now is not before:
            self.changes[now] += 1
            self._watch.changed(worker, before)
            log = _log.debug if _is_step_of_a_refit(worker, before, now) else _log.info
            log(
                "worker_status",
                worker=worker.worker_id,
                before=None if before is None else before.value,
                now=now.value,
                failures=worker.vitals.failures,
                weights=worker.weight_version,
            )

    def _count_unwell(self, worker: Worker) -> None:
        if worker.health is not Health.QUARANTINED or worker.state is WorkerState.REMOVED:
            self._unwell.discard(worker.worker_id)
        elif worker.worker_id not in self._unwell:
            self._unwell.add(worker.worker_id)
            self.quarantines += 1


def _is_step_of_a_refit(worker: Worker, before: WorkerStatus | None, now: WorkerStatus) -> bool:
    """Tell whether a worker is fenced, drained or updated by a refit of the fleet."""
    if before is WorkerStatus.ACTIVE and now is WorkerStatus.STALE:
        return worker.mends
    return worker.order is not None and worker.order.refit_id is not None and now is not WorkerStatus.QUARANTINED
