"""Log one line for every change of a worker's shown status."""

from __future__ import annotations

import structlog

from sglang_diffusion_routing.core.state import WorkerState
from sglang_diffusion_routing.core.worker import Worker, WorkerId, WorkerStatus

_log = structlog.get_logger(__name__)


class Journal:
    """Knows the status that each worker had when it was last looked at."""

    def __init__(self) -> None:
        self._last: dict[WorkerId, WorkerStatus] = {}

    def note(self, worker: Worker) -> None:
        """Log the worker's status if it is another than before."""
        before, now = self._last.get(worker.worker_id), worker.status
        if worker.state is WorkerState.REMOVED:
            self._last.pop(worker.worker_id, None)
        else:
            self._last[worker.worker_id] = now
        if now is not before:
            _log.info(
                "worker_status",
                worker=worker.worker_id,
                before=None if before is None else before.value,
                now=now.value,
                failures=worker.vitals.failures,
                weights=worker.weight_version,
            )
