"""Have what changes written down, so that a router that is killed can go on where it was."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from sglang_diffusion_routing.core.state import Intent, Trigger, WorkerState
from sglang_diffusion_routing.core.weights import Ledger
from sglang_diffusion_routing.core.worker import Worker
from sglang_diffusion_routing.store import SavedJob, SavedRefit, SavedWorker, Store

_NOT_AWAKE = frozenset({WorkerState.RELEASING, WorkerState.SLEEPING, WorkerState.RESUMING})

GONE = 0
"""The registration of a worker that is not registered any more."""


class Saver:
    """Knows what of each worker was last written, and writes what differs. Without a store everything is a no-op."""

    def __init__(self, job_ttl_s: float) -> None:
        self._job_ttl_s = job_ttl_s
        self._store: Store | None = None
        self._next_registration = GONE + 1
        self._restored: dict[str, SavedWorker] = {}
        # By incarnation.
        self._registrations: dict[int, int] = {}
        self._written: dict[int, SavedWorker] = {}
        self._left_out: set[str] = set()

    def attach(self, store: Store, restored: Iterable[SavedWorker] = ()) -> None:
        """Write to `store` from now on.

        Args:
            restored: the workers that are about to be restored; each keeps its registration, and with it its jobs.
        """
        self._store = store
        self._next_registration = store.last_registration + 1
        self._restored = {worker.url: worker for worker in restored}

    @property
    def is_durable(self) -> bool:
        """Whether anything is written at all."""
        return self._store is not None

    @property
    def path(self) -> Path | None:
        """The file; None while nothing is written."""
        return None if self._store is None else self._store.path

    @property
    def failures(self) -> int:
        """Attempts to write that failed."""
        return 0 if self._store is None else self._store.failures

    @property
    def unsaved(self) -> int:
        """Changes that are not on disk yet."""
        return 0 if self._store is None else self._store.unsaved

    def leave_out(self, url: str) -> None:
        """Write nothing of the worker at `url`: it ends with the router."""
        self._left_out.add(url)

    def note(self, worker: Worker) -> None:
        """Write what of a worker has changed; one that is removed, or drains for it, will not be there again."""
        store = self._store
        if worker.worker_id in self._left_out:
            if worker.state is WorkerState.REMOVED:
                self._left_out.discard(worker.worker_id)
            return
        if store is None:
            return
        key = worker.incarnation
        if worker.state is WorkerState.REMOVED:
            self._drop(store, worker)
            self._registrations.pop(key, None)
        elif _leaves(worker):
            self._drop(store, worker)
        else:
            now = _saved(worker, self._registration(worker))
            if self._written.get(key) != now:
                self._written[key] = now
                store.put_worker(now)

    def _registration(self, worker: Worker) -> int:
        """Give the number of a worker, for a new one the next or, if it is being restored, the one that it had."""
        registration = self._registrations.get(worker.incarnation)
        if registration is None:
            restored = self._restored.pop(worker.worker_id, None)
            if restored is None:
                registration = self._next_registration
                self._next_registration += 1
            else:
                registration = restored.registration
                self._written[worker.incarnation] = restored
            self._registrations[worker.incarnation] = registration
        return registration

    def _drop(self, store: Store, worker: Worker) -> None:
        if self._written.pop(worker.incarnation, None) is not None:
            store.drop_worker(self._registrations[worker.incarnation])

    def note_ledger(self, ledger: Ledger) -> None:
        """Write the weight groups that the last event has changed."""
        if self._store is not None:
            for name in ledger.changed:
                self._store.put_group(name, ledger.group(name))

    def note_job(self, kind: str, job_id: str, worker: Worker, *, running: bool) -> None:
        """Write who made a job, and whether it still runs; returns at once."""
        if self._store is not None:
            registration = self._registrations.get(worker.incarnation, GONE)
            expires_unix_s = time.time() + self._job_ttl_s
            self._store.put_job(SavedJob(kind, job_id, worker.worker_id, registration, expires_unix_s, running))

    def put_refit(self, refit: SavedRefit) -> None:
        """Write a refit's record; of several of one id the last counts."""
        if self._store is not None:
            self._store.put_refit(refit)

    async def flush(self) -> bool:
        """Wait until everything noted before is on disk; False when it is not after a few seconds."""
        return self._store is None or await self._store.flush()

    def start(self) -> None:
        """Begin to write: the router is up, and from here on its end is unclean until `aclose`.

        What was to be restored and was not is dropped.
        """
        if self._store is not None:
            for worker in self._restored.values():
                self._store.drop_worker(worker.registration)
            self._restored.clear()
            self._store.start()

    async def aclose(self, *, clean: bool) -> None:
        """Write what is left, and let another router have the file; safe to repeat.

        Args:
            clean: whether the router ends in order, so that the next one begins afresh.
        """
        if self._store is not None:
            await self._store.close(clean=clean)


def _leaves(worker: Worker) -> bool:
    awaited = worker.next_order
    return worker.intent is Intent.REMOVE or (awaited is not None and awaited.trigger is Trigger.REMOVE)


def _saved(worker: Worker, registration: int) -> SavedWorker:
    """Give of a worker what somebody has decided; what was only seen is seen again.

    One that is being woken counts as asleep: whoever asked gets no answer from a router that is killed, and asks again.
    """
    awaited = None if worker.next_order is None else worker.next_order.trigger
    return SavedWorker(
        registration=registration,
        url=worker.worker_id,
        labels=worker.labels,
        max_concurrency=worker.max_concurrency,
        quarantined=worker.vitals.sticky,
        held=worker.intent is Intent.HOLD or awaited is Trigger.HOLD,
        asleep=(
            worker.state in _NOT_AWAKE
            or worker.sleep_first
            or worker.intent is Intent.SLEEP
            or awaited is Trigger.SLEEP
        ),
    )
