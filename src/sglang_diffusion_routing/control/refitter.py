"""Load new weights into the fleet as one transaction: fence, drain, update each worker once it has drained, open."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import structlog

from sglang_diffusion_routing.control.broadcast import Outgoing, sort_out
from sglang_diffusion_routing.control.checksums import Baselines
from sglang_diffusion_routing.control.ports import Fleet
from sglang_diffusion_routing.control.rows import Asked, endings, is_good, reply, row_of_ending, skipped
from sglang_diffusion_routing.control.worker_api import Answer, Ended, WorkerApi
from sglang_diffusion_routing.core.events import RefitRequested
from sglang_diffusion_routing.core.worker import Worker
from sglang_diffusion_routing.errors import Conflict, NoEligibleWorker, RouterError, TooManyRefits, UnknownWorker
from sglang_diffusion_routing.schemas import FanOutReply
from sglang_diffusion_routing.tasks import Tasks

_log = structlog.get_logger(__name__)

WAITING_MAX = 16
"""Transactions that wait for the one under way; each may hold a body on disk."""


@dataclass(frozen=True, slots=True)
class Refit:
    """One transaction's request.

    version: name of the new weights; None to have the router count. drain_limit_s: how long work may take to end.
    """

    outgoing: Outgoing
    version: str | None
    drain_limit_s: float


@dataclass(frozen=True, slots=True)
class Update:
    """What became of one worker's update.

    unchanged: of a refused one, whether the worker's weights are as before; None when nobody could tell.
    """

    answer: Answer
    unchanged: bool | None = None


class Refitter:
    """Fleet transactions, one at a time.

    Args:
        call_limit_s: how long a worker may take to load its weights.

    Attributes:
        outcomes: transactions so far that did "succeeded", "failed" in part or whole.
    """

    def __init__(
        self, fleet: Fleet, api: WorkerApi, baselines: Baselines, *, call_limit_s: float, max_reply_bytes: int
    ) -> None:
        self._fleet = fleet
        self._api = api
        self._call_limit_s = call_limit_s
        self._max_reply_bytes = max_reply_bytes
        self._baselines = baselines
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._tasks = Tasks()
        self._refits = count(1)
        self._counted = 0
        self._current: dict[str, tuple[Refit, str]] = {}
        self.outcomes = {"succeeded": 0, "failed": 0}

    async def aclose(self) -> None:
        await self._tasks.cancel_all()

    async def run(self, workers: Sequence[Worker], refit: Refit) -> FanOutReply:
        """Carry `refit` out on those of `workers` that are eligible; goes on when the caller is cancelled.

        The refit's body is closed in the end, whatever happens.

        Raises:
            NoEligibleWorker: there is none; nothing was changed.
            TooManyRefits: too many wait for their turn.
        """
        if self._waiting >= WAITING_MAX:
            refit.outgoing.body.close()
            raise TooManyRefits(self._waiting)
        self._waiting += 1
        task = self._tasks.spawn(self._in_turn(workers, refit), name="refit", on_error=_unless_told)
        return await asyncio.shield(task)

    async def _in_turn(self, workers: Sequence[Worker], refit: Refit) -> FanOutReply:
        with refit.outgoing.body:
            try:
                await self._turn.acquire()
            finally:
                self._waiting -= 1
            try:
                return await self._transact(workers, refit)
            finally:
                self._turn.release()

    async def _transact(self, workers: Sequence[Worker], refit: Refit) -> FanOutReply:
        eligible, skips = sort_out(workers)
        if not eligible:
            raise NoEligibleWorker(self._fleet.pool.counts_by_status())
        version = refit.version if refit.version is not None else str(self._next_number(eligible))
        refit_id = f"refit-{next(self._refits)}"
        self._current[refit_id] = refit, version
        asked: list[Asked] = []
        try:
            for worker in eligible:
                try:
                    ending = self._fleet.ask(
                        RefitRequested(worker.worker_id, refit_id, version, drain_limit_s=refit.drain_limit_s)
                    )
                except (Conflict, UnknownWorker) as error:
                    skips.append(skipped(worker, error.message))
                else:
                    asked.append(Asked(worker, ending))
            _log.info("refit_started", refit=refit_id, version=version, workers=len(asked))
            ended = await endings(asked, refit.drain_limit_s + 3 * self._call_limit_s)
        finally:
            del self._current[refit_id]
        rows = [row_of_ending(one.worker, ending, {"success": True}) for one, ending in zip(asked, ended, strict=True)]
        good = sum(map(is_good, rows))
        _log.info("refit_ended", refit=refit_id, version=version, updated=good, failed=len(rows) - good)
        self.outcomes["succeeded" if good == len(rows) else "failed"] += 1
        if good and refit.version is None:
            self._counted = int(version)
        return reply(rows, skips, version=version if good else None)

    def _next_number(self, workers: Sequence[Worker]) -> int:
        """Count on from the last number that a worker has loaded, past those that the trainer has used as names."""
        ledger = self._fleet.pool.ledger
        groups = {worker.weight_group or "" for worker in workers}
        return next(
            number
            for number in count(self._counted + 1)
            if all(ledger.sequence_of(group, str(number)) is None for group in groups)
        )

    async def update(self, worker: Worker, refit_id: str) -> Update:
        """Send one drained worker its update, and find out what a refusal has changed."""
        if refit_id not in self._current:
            raise LookupError(f"{refit_id} has ended")
        refit, version = self._current[refit_id]
        group, before = worker.weight_group or "", worker.loaded
        await self._baselines.take_first(worker, group)
        answer = await self._api.send(worker.url, refit.outgoing.call(self._call_limit_s, self._max_reply_bytes))
        if answer.ended is Ended.REFUSED:
            return Update(answer, await self._baselines.still_holds(worker, group, before))
        if answer.ended is Ended.SUCCEEDED:
            self._baselines.take_new(worker, group, version)
        return Update(answer)


def _unless_told(error: BaseException) -> None:
    """Log what went wrong with the router; what was wrong with the request reaches the client."""
    if not isinstance(error, RouterError):
        _log.error("refit_broke_off", exc_info=error)
