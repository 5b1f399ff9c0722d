"""Bring the workers of one refit to its weights, all at once or a few at a time, and note how each one ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from sglang_diffusion_routing.control.plan import Plan
from sglang_diffusion_routing.control.ports import Ending, Fleet
from sglang_diffusion_routing.control.refit_log import RefitRecord, RowStatus
from sglang_diffusion_routing.control.rows import is_good, reply, row_of_ending, skipped
from sglang_diffusion_routing.control.updates import Update, Updates, until_judged
from sglang_diffusion_routing.control.worker_api import Ended
from sglang_diffusion_routing.core.commands import Outcome
from sglang_diffusion_routing.core.events import RefitClosed
from sglang_diffusion_routing.core.waves import Verdict, Waves
from sglang_diffusion_routing.core.weights import Loaded
from sglang_diffusion_routing.core.worker import Worker, WorkerId
from sglang_diffusion_routing.errors import Conflict, UnknownWorker
from sglang_diffusion_routing.schemas import FanOutReply, FanOutRow, SkippedRow
from sglang_diffusion_routing.spans import OFF, Tracer

Load = Callable[[Worker, Loaded], Awaitable[Update]]
"""Gives a drained worker its weights. Takes what it had before; begins when it is called, not when it is awaited."""

_STATUS_OF: dict[Outcome, RowStatus] = {
    Outcome.DONE: "updated",
    Outcome.REFUSED: "refused",
    Outcome.LOST: "lost",
    Outcome.EXPIRED: "expired",
    Outcome.SUPERSEDED: "superseded",
    Outcome.CONFLICT: "conflict",
}
_VERDICT_OF = {
    Outcome.DONE: Verdict.UPDATED,
    Outcome.REFUSED: Verdict.FAILED,
    Outcome.LOST: Verdict.FAILED,
}


class Transaction:
    """One refit under way.

    Args:
        limit_s: how long one worker may take from the order to its end; None where `load` has limits of its own.
        settled: called once every worker that was asked is being updated, or has ended.

    Attributes:
        rows: of the workers that have ended. skips: workers that were left out.
    """

    def __init__(
        self,
        fleet: Fleet,
        updates: Updates,
        plan: Plan,
        record: RefitRecord,
        load: Load,
        *,
        limit_s: float | None,
        settled: Callable[[], None] | None = None,
        tracer: Tracer = OFF,
    ) -> None:
        self.plan = plan
        self.record = record
        self.workers: Sequence[Worker] = ()
        self.rows: dict[WorkerId, FanOutRow] = {}
        self.skips: list[SkippedRow] = []
        self._settled = settled
        self._tracer = tracer
        self._fleet = fleet
        self._updates = updates
        self._load = load
        self._limit_s = limit_s
        self._not_there_yet: set[WorkerId] = set()
        self._ended = asyncio.Event()

    async def run(self, workers: Sequence[Worker], skips: Sequence[SkippedRow]) -> None:
        """Fence the groups, update `workers`, and open the groups again."""
        self.workers = workers
        self._not_there_yet = {worker.worker_id for worker in workers}
        for row in skips:
            self._left_out(row)
        plan = self.plan
        with self._tracer.span(
            "refit",
            refit=plan.refit_id,
            route=self.record.route,
            mode=plan.pace.mode.value,
            weight_version=plan.version,
            workers=len(workers),
        ) as span:
            with _fence(self._fleet, plan):
                await self._go_over()
            span.attributes["updated"] = self.updated
            if self.updated < len(self.rows):
                span.error = "not_all_updated"

    async def _go_over(self) -> None:
        waves = Waves(list(self.workers), self.plan.pace.at_once)
        async with asyncio.TaskGroup() as group:
            while not waves.over:
                for worker in waves.begin(self._fleet.scheduler.in_flight):
                    group.create_task(self._one(worker, waves))
                self._ended.clear()
                await self._ended.wait()
        for worker in waves.waiting:
            self._left_out(skipped(worker, f"the refit was stopped after {self._first_failure()}"))

    async def _one(self, worker: Worker, waves: Waves) -> None:
        """Have one worker updated; ends with it."""
        with self._tracer.span("refit_worker", worker=worker.worker_id) as span:
            outcome = await self._ask_one(worker, waves)
            span.attributes["outcome"] = outcome
            if outcome != Outcome.DONE.value:
                span.error = outcome
        self._there(worker)
        self._ended.set()

    async def _ask_one(self, worker: Worker, waves: Waves) -> str:
        """Have one worker updated, and tell in a word how that ended."""
        now_s = asyncio.get_running_loop().time
        began_s = now_s()
        try:
            asked = self._fleet.ask(self.plan.asked_of(worker))
        except (Conflict, UnknownWorker) as error:
            self._left_out(skipped(worker, error.message))
            waves.ended(Verdict.MISSED)
            return "skipped"
        self.record.note(worker.worker_id, "draining")
        await asyncio.wait({asked}, timeout=self._limit_s)
        await until_judged(worker)
        ending = self._truth(worker, asked)
        self._note_end(worker, ending, now_s() - began_s)
        waves.ended(_VERDICT_OF.get(ending.outcome, Verdict.MISSED))
        return ending.outcome.value

    def _truth(self, worker: Worker, asked: asyncio.Future[Ending]) -> Ending:
        """Say how it ended for a worker, in doubt as lost."""
        if not asked.done():
            return Ending(Outcome.LOST, f"not done within {self._limit_s:g} s")
        ending = asked.result()
        if ending.outcome is Outcome.DONE and worker.loaded != self.plan.version:
            return Ending(Outcome.LOST, "its process was replaced while it loaded the weights")
        return ending

    async def update(self, worker: Worker) -> Update:
        """Give one worker its weights; the pool says when."""
        before = worker.loaded
        await self._updates.prepare(worker)
        loading = self._load(worker, before)
        self.record.note(worker.worker_id, "updating")
        self._there(worker)
        update = await loading
        if update.answer.ended is Ended.SUCCEEDED:
            self._updates.loaded(worker, self.plan.version)
        return update

    def _there(self, worker: Worker) -> None:
        self._not_there_yet.discard(worker.worker_id)
        if not self._not_there_yet and self._settled is not None:
            self._settled()
            self._settled = None

    def _first_failure(self) -> str:
        failed = (row for row in self.record.rows.values() if row.status in {"refused", "lost"})
        return next((f"{row.worker_url} had {row.status} it: {row.reason}" for row in failed), "a failure")

    def _left_out(self, row: SkippedRow) -> None:
        self.skips.append(row)
        self.record.note(WorkerId(row.worker_url), "skipped", reason=row.reason)

    def _note_end(self, worker: Worker, ending: Ending, took_s: float) -> None:
        row = row_of_ending(worker, ending, {"success": True})
        self.rows[worker.worker_id] = row
        self.record.note(
            worker.worker_id,
            _STATUS_OF[ending.outcome],
            status_code=row.status_code,
            reason=ending.reason,
            seconds=took_s,
        )

    @property
    def updated(self) -> int:
        """How many workers have the new weights."""
        return sum(map(is_good, self.rows.values()))

    def reply(self, message: str | None = None) -> FanOutReply:
        """Say what became of every worker, and `message` where any was updated."""
        rows = [self.rows[worker.worker_id] for worker in self.workers if worker.worker_id in self.rows]
        refit_id = self.plan.refit_id
        if not self.updated:
            return reply(rows, self.skips, refit=refit_id)
        return reply(rows, self.skips, message=message, version=self.plan.version, refit=refit_id)


@contextmanager
def _fence(fleet: Fleet, plan: Plan) -> Iterator[None]:
    """Keep the groups from work on weights that are on their way out, for the length of the block."""
    fleet.apply(plan.opened())
    try:
        yield
    except asyncio.CancelledError:
        # The router ends. What is on disk says that the refit is open, and the next run goes on from there.
        raise
    except BaseException:
        fleet.apply(RefitClosed(plan.refit_id))
        raise
    fleet.apply(RefitClosed(plan.refit_id))
