"""Load new weights into the fleet, one refit after the other in each weight group."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from itertools import count

import structlog

from sglang_diffusion_routing.control.bracket import Bracket
from sglang_diffusion_routing.control.checksums import Baselines
from sglang_diffusion_routing.control.plan import Choose, Plan, Refit, caution, groups_of, sort_out
from sglang_diffusion_routing.control.ports import Fleet
from sglang_diffusion_routing.control.refit_log import NoShelf, RefitLog, RefitRecord, Shelf, Status
from sglang_diffusion_routing.control.resume import Resumption, refit_of, until_probed
from sglang_diffusion_routing.control.transaction import Transaction
from sglang_diffusion_routing.control.turns import Turns
from sglang_diffusion_routing.control.updates import Update, Updates
from sglang_diffusion_routing.control.worker_api import Answer, Ended, WorkerApi
from sglang_diffusion_routing.core.events import RefitClosed
from sglang_diffusion_routing.core.weights import Loaded
from sglang_diffusion_routing.core.worker import Worker
from sglang_diffusion_routing.errors import NoEligibleWorker, RouterError, TooManyRefits
from sglang_diffusion_routing.metrics.histogram import WORK_S, Histogram
from sglang_diffusion_routing.schemas import FanOutReply
from sglang_diffusion_routing.spans import OFF, Tracer
from sglang_diffusion_routing.store import SavedRefit
from sglang_diffusion_routing.tasks import Tasks

__all__ = ["Refitter", "Update"]

_log = structlog.get_logger(__name__)

_OVER = Update(Answer(Ended.REFUSED, 409, {"error": "the refit was over before its turn had come"}), unchanged=True)


class Refitter:
    """The fleet's refits.

    Args:
        call_limit_s: how long a worker may take to load its weights.
        shelf: where refits outlive the router.

    Attributes:
        outcomes: refits so far that did "succeeded", "failed" in part or whole. took: how long, in seconds.
        turns: whose turn it is in each weight group. log: the last refits. updates: the calls on workers.
    """

    def __init__(
        self,
        fleet: Fleet,
        api: WorkerApi,
        baselines: Baselines,
        *,
        call_limit_s: float,
        max_reply_bytes: int,
        shelf: Shelf | None = None,
        tracer: Tracer = OFF,
    ) -> None:
        self.outcomes = {"succeeded": 0, "failed": 0}
        self.took = {outcome: Histogram(WORK_S) for outcome in self.outcomes}
        self.turns = Turns()
        self.log = RefitLog()
        self.updates = Updates(api, baselines, call_limit_s=call_limit_s, max_reply_bytes=max_reply_bytes)
        self._fleet = fleet
        self._tracer = tracer
        self._shelf = NoShelf() if shelf is None else shelf
        self._tasks = Tasks()
        self._run_name = secrets.token_hex(4)
        self._ids = count(1)
        self._counted = 0
        self._under_way: dict[str, Transaction] = {}

    async def aclose(self) -> None:
        await self._tasks.cancel_all()

    # One request, or the first of several.

    async def run(self, choose: Choose, refit: Refit) -> FanOutReply:
        """Carry `refit` out on those of the chosen workers that are eligible; goes on when the caller is cancelled.

        The refit's body is closed in the end, whatever happens.

        Raises:
            NoEligibleWorker: there is none; nothing was changed.
            TooManyRefits: too many wait for their turn.
        """

        async def carry_out() -> FanOutReply:
            with refit.outgoing.body:
                return await self._carry_out(self.enter(choose, refit), choose, refit)

        task = self._tasks.spawn(carry_out(), name="refit", on_error=_unless_told, of_request=True)
        return await asyncio.shield(task)

    def begin(self, record: RefitRecord, choose: Choose, refit: Refit, bracket: Bracket) -> asyncio.Task[FanOutReply]:
        """Begin a refit whose weights come through `bracket`; the task ends with it. The body is the caller's."""
        carrying = self._carry_out(record, choose, refit, bracket)
        return self._tasks.spawn(carrying, name="refit in parts", on_error=_unless_told, of_request=True)

    def enter(self, choose: Choose, refit: Refit) -> RefitRecord:
        """Note that a refit was asked for."""
        refit_id = f"refit-{self._run_name}-{next(self._ids)}"
        groups = sorted(groups_of(choose()))
        record = RefitRecord(refit_id, refit.route, refit.pace.mode, version=refit.version, groups=groups)
        self.log.enter(record)
        return record

    # One worker, when the pool says so.

    async def update(self, worker: Worker, refit_id: str) -> Update:
        """Give one worker the weights of the refit that is under way."""
        transaction = self._under_way.get(refit_id)
        return _OVER if transaction is None else await transaction.update(worker)

    # After a restart of the router.

    def restore(self, refits: Iterable[SavedRefit], *, within_s: float) -> None:
        """Remember the refits of an earlier run, the oldest first, and go on with what its end has interrupted.

        Args:
            within_s: how long to wait for the first answers of the remembered workers.
        """
        for saved in refits:
            self.log.restore(saved)
            if saved.is_open:
                self.resume(saved, within_s=within_s)

    def resume(self, saved: SavedRefit, *, within_s: float) -> None:
        """Send a checkpoint or a LoRA from disk to everybody again, which does no harm to those that have it.

        What cannot be sent again is over; the workers that it was for get no work before they have been looked at.
        """
        record, refit = self.log.get(saved.refit_id), refit_of(saved)
        resumption = Resumption.of(self._fleet, saved)
        if refit is None:
            _log.error("refit_interrupted", refit=saved.refit_id, version=saved.version)
            self._give_up(saved, record, "the router ended in the middle of it, and it cannot be sent again")
            return
        _log.warning("refit_resumed", refit=saved.refit_id, version=saved.version)
        record.go_on()
        going_on = self._resume(saved, record, refit, resumption, within_s)
        self._tasks.spawn(going_on, name="refit resumed", on_error=_unless_told)

    async def _resume(
        self, saved: SavedRefit, record: RefitRecord, refit: Refit, resumption: Resumption, within_s: float
    ) -> None:
        """Have its turn before all that is asked for from now on; where no worker can take it, let others go ahead."""
        with refit.outgoing.body:
            async with self.turns.of(record.groups):
                await until_probed(self._fleet, within_s)
                over = await self._go_on(saved, record, refit, resumption)
            while not over:
                await resumption.until_worth_a_try()
                with suppress(TooManyRefits):
                    async with self.turns.of(record.groups):
                        over = await self._go_on(saved, record, refit, resumption)

    async def _go_on(self, saved: SavedRefit, record: RefitRecord, refit: Refit, resumption: Resumption) -> bool:
        """Take it up if a worker can take it, and tell whether it is over."""
        if resumption.overtaken:
            self._give_up(saved, record, "other weights came before a worker could be sent it again")
            return True
        resumption.reopen()
        if not resumption.can_go_on:
            record.wait_on("it is sent again as soon as a worker can take it")
            return False
        record.go_on()
        try:
            await self._transact(record, resumption.workers, refit, None)
        except RouterError as error:
            self._give_up(saved, record, error.message, status="failed")
        return True

    def _give_up(self, saved: SavedRefit, record: RefitRecord, why: str, *, status: Status = "interrupted") -> None:
        """Let go of a refit of an earlier run: its fence and its request were remembered, and nobody else does."""
        record.end(status, why)
        self._fleet.apply(RefitClosed(saved.refit_id))
        self._shelf.put_refit(record.closed(saved))

    # All of them.

    async def _carry_out(
        self,
        record: RefitRecord,
        choose: Choose,
        refit: Refit,
        bracket: Bracket | None = None,
    ) -> FanOutReply:
        """Do it when its turn has come, and write down what became of it.

        Args:
            bracket: gives the weights in parts.
        """
        try:
            async with self.turns.of(record.groups):
                return await self._transact(record, choose, refit, bracket)
        except RouterError as error:
            if record.status == "waiting":
                # It never began: one who asks again and again must not push the others out of the log.
                self.log.drop(record)
            record.end("failed", error.message)
            raise

    async def _transact(
        self, record: RefitRecord, choose: Choose, refit: Refit, bracket: Bracket | None
    ) -> FanOutReply:
        eligible, skips = sort_out(choose(), frozenset(record.groups))
        if not eligible:
            raise NoEligibleWorker(self._fleet.pool.counts_by_status())
        groups = groups_of(eligible)
        version = refit.version if refit.version is not None else str(self._next_number(groups))
        plan = refit.plan(record.refit_id, version, groups)
        record.begin(plan, eligible, parts=0 if bracket else 1)
        await self._put(record, plan)
        transaction, began_s = self._transaction(record, plan, refit, bracket), self._fleet.now_s()
        self._under_way[plan.refit_id] = transaction
        _log.info("refit_started", refit=plan.refit_id, version=version, workers=len(eligible))
        warning = caution(self._fleet.pool.ledger, plan)
        if warning is not None:
            _log.warning("refit_after_lora", refit=plan.refit_id, caution=warning)
        try:
            await transaction.run(eligible, skips)
        except Exception:
            # Whatever it was, nobody else would end the record, and the next run would send the refit again.
            record.end("failed", "the router failed; its log says why")
            await self._put(record, plan)
            raise
        finally:
            del self._under_way[plan.refit_id]
            if bracket is not None:
                bracket.close()
        fault = "" if bracket is None else bracket.fault
        await self._ended(transaction, record, counted=refit.version is None, fault=fault, began_s=began_s)
        return transaction.reply(warning)

    def _transaction(self, record: RefitRecord, plan: Plan, refit: Refit, bracket: Bracket | None) -> Transaction:
        fleet, updates = self._fleet, self.updates
        if bracket is not None:
            hold, opened = bracket.hold, bracket.open
            return Transaction(fleet, updates, plan, record, hold, limit_s=None, settled=opened, tracer=self._tracer)

        def load(worker: Worker, before: Loaded) -> Awaitable[Update]:
            return updates.make(worker, before, refit.outgoing)

        # It may wait behind a call of the router's own, and is asked for checksums before and after.
        limit_s = plan.drain_limit_s + 3 * updates.call_limit_s
        return Transaction(fleet, updates, plan, record, load, limit_s=limit_s, tracer=self._tracer)

    async def _ended(
        self, transaction: Transaction, record: RefitRecord, *, counted: bool, fault: str, began_s: float
    ) -> None:
        good, asked = transaction.updated, len(transaction.rows)
        status: Status = "failed" if not good else "succeeded" if good == asked else "partial"
        record.end(status, fault)
        await self._put(record, transaction.plan)
        version = transaction.plan.version
        _log.info("refit_ended", refit=record.refit_id, version=version, updated=good, failed=asked - good)
        if not asked:
            raise NoEligibleWorker(self._fleet.pool.counts_by_status())
        outcome = "succeeded" if status == "succeeded" else "failed"
        self.outcomes[outcome] += 1
        self.took[outcome].observe(self._fleet.now_s() - began_s)
        if good and counted:
            self._counted = max(self._counted, int(version))

    async def _put(self, record: RefitRecord, plan: Plan) -> None:
        """Wait until the disk has it, in vain where it takes nothing: the store says so, and the refit goes on."""
        self._shelf.put_refit(record.saved(plan))
        await self._shelf.flush()

    def _next_number(self, groups: Iterable[str]) -> int:
        """Count on from the last number that a worker has loaded, past those that the trainer has used as names."""
        ledger, groups = self._fleet.pool.ledger, list(groups)
        return next(
            number
            for number in count(self._counted + 1)
            if all(ledger.sequence_of(group, str(number)) is None for group in groups)
        )


def _unless_told(error: BaseException) -> None:
    """Log what went wrong with the router; what was wrong with the request reaches the client."""
    if not isinstance(error, RouterError):
        _log.error("refit_broke_off", exc_info=error)
