"""Register workers, change them, remove them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from sglang_diffusion_routing.control.addresses import Addresses
from sglang_diffusion_routing.control.ports import Fleet
from sglang_diffusion_routing.control.prober import Prober
from sglang_diffusion_routing.core.address import AllowList
from sglang_diffusion_routing.core.events import (
    HoldRequested,
    LabelsSet,
    MaxConcurrencySet,
    QuarantineLifted,
    QuarantineRequested,
    RemovalRequested,
    WakeRequested,
    WorkerRegistered,
)
from sglang_diffusion_routing.core.state import Intent, Trigger, WorkerState
from sglang_diffusion_routing.core.worker import Worker, WorkerId, WorkerUrl
from sglang_diffusion_routing.errors import Conflict, InvalidField, TooManyWorkers, UnknownWorker
from sglang_diffusion_routing.schemas import UpdateWorker

_log = structlog.get_logger(__name__)

WORKERS_MAX = 4096
"""Ten times the largest fleet that is known; each costs a sentinel connection and a probe every interval."""

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A worker as it is to be registered.

    url: as it was written. labels, max_concurrency: None to leave alone what it has.
    """

    url: str
    labels: Labels | None = None
    max_concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Removal:
    """What became of workers that were to go. draining: still there until their work has ended."""

    removed: Sequence[Worker]
    draining: Sequence[Worker]


@dataclass(frozen=True, slots=True)
class Swap(Removal):
    """What became of a set of workers that took another one's place.

    workers: the set, in the order in which it was named. added, kept: those of it that are new, and the others.
    """

    workers: Sequence[Worker]
    added: Sequence[Worker]
    kept: Sequence[Worker]


class Membership:
    """Who is in the pool.

    Args:
        allowed: hosts that may be workers.
        first_probe_limit_s: how long a registration waits for its first probes.
    """

    def __init__(self, fleet: Fleet, prober: Prober, allowed: AllowList, *, first_probe_limit_s: float) -> None:
        self._fleet = fleet
        self._prober = prober
        self._addresses = Addresses(allowed, limit_s=first_probe_limit_s)
        self._first_probe_limit_s = first_probe_limit_s
        self._swaps = 0

    async def register(self, *wanted: Wanted) -> list[Worker]:
        """Take workers in, and return when their first probes have ended, so that they can be used at once.

        One that does not answer is taken in nonetheless; it joins when it does. One that is there already stays as it
        is, but for the labels and the cap that are given.

        Returns:
            The workers in the order in which they were named, each once.

        Raises:
            InvalidWorkerUrl, InvalidField, TooManyWorkers: nothing was changed.
        """
        checked = await self._checked(wanted)
        self._make_sure_of_room(checked, WORKERS_MAX)
        workers = [self._take_in(url, one) for url, one in checked.items()]
        await self._first_probes(workers)
        return workers

    async def enlist(self, text: str) -> Worker:
        """Take a worker in, and let its first probe begin.

        Raises:
            InvalidWorkerUrl, TooManyWorkers: nothing was changed.
        """
        checked = await self._checked([Wanted(text)])
        self._make_sure_of_room(checked, WORKERS_MAX)
        (worker,) = [self._take_in(url, one) for url, one in checked.items()]
        return worker

    async def adopt(self, wanted: Wanted, mark: tuple[str, str]) -> Worker | None:
        """Take a worker in with a label that says whose it is, and let its first probe begin.

        Returns:
            The worker; None when it is there without that label, and so somebody else's: nothing was changed.

        Raises:
            InvalidWorkerUrl, TooManyWorkers: nothing was changed.
        """
        checked = await self._checked([wanted])
        ((url, _),) = checked.items()
        known = self._fleet.pool.get(_id_of(url))
        if known is not None and mark not in known.labels:
            return None
        self._make_sure_of_room(checked, WORKERS_MAX)
        labels = wanted.labels
        if known is None or labels is not None:
            labels = pairs({**dict(labels or ()), mark[0]: mark[1]})
        return self._take_in(url, replace(wanted, labels=labels))

    async def swap(self, wanted: Sequence[Wanted], *, force: bool) -> Swap:
        """Make the pool consist of `wanted`: what is new is taken in and probed, and then what is missing is removed.

        What stays is not touched, but for the labels and the cap that are given, and a removal that is called off.

        Raises:
            InvalidWorkerUrl, InvalidField, TooManyWorkers: nothing was changed.
            Conflict: another set was named in the meantime, and that one counts.
        """
        checked = await self._checked(wanted)
        # The set that goes may drain for half an hour while the next one works, and both must have room.
        self._make_sure_of_room(checked, 2 * WORKERS_MAX)
        self._swaps += 1
        this = self._swaps
        before = dict(self._fleet.pool.workers)
        ids = {_id_of(url) for url in checked}
        leaving = [worker for worker in before.values() if worker.worker_id not in ids]
        workers = [self._take_in(url, one) for url, one in checked.items()]
        added = [worker for worker in workers if worker.worker_id not in before]
        await self._first_probes(added)
        if this != self._swaps:
            raise Conflict("another set of workers was named in the meantime, and that one counts")
        removal = self.remove_all(leaving, force=force)
        kept = [worker for worker in workers if worker.worker_id in before]
        return Swap(removal.removed, removal.draining, workers, added, kept)

    async def _checked(self, wanted: Sequence[Wanted]) -> dict[WorkerUrl, Wanted]:
        """Bring what is named into one spelling, each once.

        Raises:
            InvalidWorkerUrl: one may not be a worker.
            InvalidField: one is named twice, and not alike.
        """
        checked: dict[WorkerUrl, Wanted] = {}
        for one in wanted:
            url = WorkerUrl.parse(one.url)
            same = checked.setdefault(url, one)
            if (same.labels, same.max_concurrency) != (one.labels, one.max_concurrency):
                raise InvalidField("workers", f"'workers' names {url} twice, and not alike")
        await self._addresses.check(list(checked))
        return checked

    def _make_sure_of_room(self, checked: Mapping[WorkerUrl, Wanted], limit: int) -> None:
        pool = self._fleet.pool
        new = sum(pool.get(_id_of(url)) is None for url in checked)
        if len(checked) > WORKERS_MAX or (new and len(pool.workers) + new > limit):
            raise TooManyWorkers(WORKERS_MAX)

    def _take_in(self, url: WorkerUrl, wanted: Wanted) -> Worker:
        worker_id = _id_of(url)
        known = self._fleet.pool.get(worker_id)
        self._fleet.apply(WorkerRegistered(url, wanted.labels or (), wanted.max_concurrency))
        worker = self.find(worker_id)
        if known is None:
            _log.info("worker_registered", worker=worker_id)
            return worker
        if wanted.labels is not None and wanted.labels != worker.labels:
            self._fleet.apply(LabelsSet(worker_id, wanted.labels))
        if wanted.max_concurrency is not None and wanted.max_concurrency != worker.max_concurrency:
            self._fleet.apply(MaxConcurrencySet(worker_id, wanted.max_concurrency))
        return worker

    async def _first_probes(self, workers: Sequence[Worker]) -> None:
        # Cancelling who asks must not cancel the probes, which others may have joined.
        probes = [self._prober.probe(worker) for worker in workers]
        if probes:
            await asyncio.wait(probes, timeout=self._first_probe_limit_s)

    def find(self, worker_id: WorkerId) -> Worker:
        """Give a registered worker.

        Raises:
            UnknownWorker: there is none of this id.
        """
        worker = self._fleet.pool.get(worker_id)
        if worker is None:
            raise UnknownWorker(worker_id)
        return worker

    def remove(self, worker: Worker, *, force: bool) -> bool:
        """Remove a worker: at once when it is idle or by force, else once its work has ended.

        Returns:
            True when it is gone, False when it drains.
        """
        if not self._is_there(worker):
            return True
        self._fleet.apply(RemovalRequested(worker.worker_id, force=force))
        gone = not self._is_there(worker)
        _log.info("worker_removed" if gone else "worker_draining", worker=worker.worker_id, force=force)
        return gone

    def remove_all(self, workers: Sequence[Worker], *, force: bool) -> Removal:
        """Remove workers, each as `remove` does."""
        gone = {worker.incarnation for worker in workers if self.remove(worker, force=force)}
        return Removal(
            [worker for worker in workers if worker.incarnation in gone],
            [worker for worker in workers if worker.incarnation not in gone],
        )

    def _is_there(self, worker: Worker) -> bool:
        """Tell whether a worker is still registered; registered anew, it is another one."""
        return self._fleet.pool.get(worker.worker_id) is worker

    async def update(self, worker: Worker, change: UpdateWorker) -> None:
        """Change a worker as an operator wants it; a change that its state does not allow changes nothing.

        Raises:
            Conflict: it cannot be made active, since something else than an operator's word holds it.
        """
        wanted = change.model_fields_set
        if "state" in wanted:
            self._set_state(worker, change.state or "active")
        if "max_concurrency" in wanted:
            self._fleet.apply(MaxConcurrencySet(worker.worker_id, change.max_concurrency))
        if change.labels is not None:
            self._fleet.apply(LabelsSet(worker.worker_id, pairs(change.labels)))
        if change.is_dead is not None:
            event = QuarantineRequested if change.is_dead else QuarantineLifted
            self._fleet.apply(event(worker.worker_id))
        if change.refresh_video_support:
            await self._prober.ask_capability(worker)

    def _set_state(self, worker: Worker, state: str) -> None:
        """Hold a worker, or let it go on; `active` undoes a hold and a removal that drains, and nothing else."""
        if state == "drained":
            if worker.intent is not Intent.HOLD:
                self._fleet.apply(HoldRequested(worker.worker_id))
            return
        waiting = worker.next_order.trigger if worker.next_order is not None else None
        if worker.intent in (Intent.HOLD, Intent.REMOVE) or waiting in (Trigger.HOLD, Trigger.REMOVE):
            self._fleet.apply(WakeRequested(worker.worker_id))
        elif worker.state is not WorkerState.ACTIVE:
            raise Conflict(f"{worker.worker_id} is {worker.status.value}", worker_id=worker.worker_id)


def pairs(labels: Mapping[str, str]) -> Labels:
    """Give labels as the core keeps them."""
    return tuple(sorted(labels.items()))


def _id_of(url: WorkerUrl) -> WorkerId:
    return WorkerId(str(url))
