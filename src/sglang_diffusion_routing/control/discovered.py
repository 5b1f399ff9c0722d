"""Keep the pool in accord with the workers that sources name, and leave alone whoever came in otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from sglang_diffusion_routing.control.membership import Membership, Wanted
from sglang_diffusion_routing.control.ports import Fleet
from sglang_diffusion_routing.core.discovery import LABEL, Named, Roll
from sglang_diffusion_routing.core.worker import WorkerId
from sglang_diffusion_routing.errors import RouterError

_log = structlog.get_logger(__name__)


class Discovered:
    """The workers that were discovered: registered with the label `discovered`, whose value is their source.

    The label is all that makes a worker theirs, so it survives a restart of the router with the worker, and an
    operator who takes it off takes the worker over.
    """

    def __init__(self, fleet: Fleet, membership: Membership) -> None:
        self._fleet = fleet
        self._membership = membership
        self._roll = Roll()
        self._turn = asyncio.Lock()
        self._kept_out: dict[str, dict[WorkerId, str]] = {}

    async def read(self, source: str, named: Sequence[Named]) -> None:
        """Take in what a source names now: who is new joins, and who is missing drains and is removed.

        Who may not be a worker stays out, which is said once.
        """
        # One reading at a time: the next one must find registered whom this one lets join.
        async with self._turn:
            pool = self._fleet.pool
            origins = {worker_id: dict(worker.labels).get(LABEL) for worker_id, worker in pool.workers.items()}
            change = self._roll.read(source, named, origins)
            refusals = await asyncio.gather(*(self._join(source, one) for one in change.joins))
            self._say(source, {one.worker_id: why for one, why in zip(change.joins, refusals, strict=True) if why})
            for worker_id in change.leaves:
                self._remove(source, worker_id)

    async def _join(self, source: str, named: Named) -> str:
        """Take a worker in, and give the reason if it may not be one."""
        wanted = Wanted(named.worker_id, named.labels, named.max_concurrency)
        try:
            await self._membership.adopt(wanted, (LABEL, source))
        except RouterError as error:
            self._roll.failed(source, named.worker_id)
            return error.message
        return ""

    def _say(self, source: str, kept_out: dict[WorkerId, str]) -> None:
        """Log who is kept out, each once; whoever cannot join is tried, and kept out, at every reading."""
        said = self._kept_out.get(source, {})
        for worker_id, reason in kept_out.items():
            if said.get(worker_id) != reason:
                _log.warning("worker_kept_out", worker=worker_id, source=source, reason=reason)
        self._kept_out[source] = kept_out

    def _remove(self, source: str, worker_id: WorkerId) -> None:
        worker = self._fleet.pool.get(worker_id)
        if worker is not None:
            _log.info("worker_no_longer_named", worker=worker_id, source=source)
            self._membership.remove(worker, force=False)
