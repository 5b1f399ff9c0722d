"""Register workers, change them, remove them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping

import structlog

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
from sglang_diffusion_routing.core.worker import Worker, WorkerId, WorkerUrl, refused_address
from sglang_diffusion_routing.errors import Conflict, InvalidWorkerUrl, TooManyWorkers, UnknownWorker
from sglang_diffusion_routing.schemas import UpdateWorker

_log = structlog.get_logger(__name__)

WORKERS_MAX = 4096
"""Ten times the largest fleet that is known; each costs a sentinel connection and a probe every interval."""


class Membership:
    """Who is in the pool.

    Args:
        allowed: hosts that may be workers.
        first_probe_limit_s: how long a registration waits for its first probe.
    """

    def __init__(self, fleet: Fleet, prober: Prober, allowed: AllowList, *, first_probe_limit_s: float) -> None:
        self._fleet = fleet
        self._prober = prober
        self._allowed = allowed
        self._first_probe_limit_s = first_probe_limit_s

    async def register(self, text: str) -> Worker:
        """Take a worker in, and return when its first probe has ended, so that it can be used at once.

        One that does not answer is taken in nonetheless; it joins when it does. Named twice, nothing changes.

        Raises:
            InvalidWorkerUrl: nothing was changed.
            TooManyWorkers: nothing was changed.
        """
        worker = await self.enlist(text)
        # Cancelling who asks must not cancel the probe, which others may have joined.
        await asyncio.wait([self._prober.probe(worker)], timeout=self._first_probe_limit_s)
        _log.info("worker_registered", worker=worker.worker_id, status=worker.status.value)
        return worker

    async def enlist(self, text: str) -> Worker:
        """Take a worker in, and let its first probe begin.

        Raises:
            InvalidWorkerUrl, TooManyWorkers: nothing was changed.
        """
        url = WorkerUrl.parse(text)
        await self._check_addresses(url)
        worker_id = WorkerId(str(url))
        pool = self._fleet.pool
        if pool.get(worker_id) is None and len(pool.workers) >= WORKERS_MAX:
            raise TooManyWorkers(WORKERS_MAX)
        self._fleet.apply(WorkerRegistered(url))
        return self.find(worker_id)

    async def _check_addresses(self, url: WorkerUrl) -> None:
        """Refuse a name for what it resolves to now; each connection checks it again."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._first_probe_limit_s):
                found = await loop.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError):
            found = []
        addresses = [str(entry[4][0]) for entry in found]
        for address in addresses:
            if (why := refused_address(address)) is not None:
                raise InvalidWorkerUrl(str(url), f"resolves to {address}, which {why}")
        listed = self._allowed.allows_host(url.host)
        if not listed and not (addresses and all(map(self._allowed.allows_address, addresses))):
            raise InvalidWorkerUrl(str(url), "is not on the list of allowed workers")

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
        self._fleet.apply(RemovalRequested(worker.worker_id, force=force))
        gone = self._fleet.pool.get(worker.worker_id) is not worker
        _log.info("worker_removed" if gone else "worker_draining", worker=worker.worker_id, force=force)
        return gone

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
            self._fleet.apply(LabelsSet(worker.worker_id, _pairs(change.labels)))
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


def _pairs(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))
