"""Put workers to sleep and wake them: `/release_memory_occupation` and `/resume_memory_occupation` for many."""

from __future__ import annotations

from collections.abc import Sequence

from sglang_diffusion_routing.control.ports import Ending, Fleet
from sglang_diffusion_routing.control.rows import Asked, endings, reply, row_of_ending, skipped
from sglang_diffusion_routing.core.commands import Outcome
from sglang_diffusion_routing.core.events import SleepRequested, WakeRequested
from sglang_diffusion_routing.core.state import Intent, Trigger, WorkerState
from sglang_diffusion_routing.core.worker import Worker
from sglang_diffusion_routing.errors import Conflict, NoEligibleWorker, UnknownWorker
from sglang_diffusion_routing.schemas import FanOutReply, FanOutRow, SkippedRow
from sglang_diffusion_routing.spans import OFF, Open, Tracer

# The words and fields of SGLang-Diffusion 0.5.23, which answers a repeated call in the same way.
_ASLEEP: dict[str, object] = {"success": True, "sleeping": True, "message": "already sleeping"}
_AWAKE: dict[str, object] = {"success": True, "sleeping": False, "message": "already awake"}

_ASLEEP_OR_ON_THE_WAY = frozenset({WorkerState.SLEEPING, WorkerState.RELEASING, WorkerState.RESUMING})


class Memory:
    """Sleep and wake.

    Args:
        drain_limit_s: how long a worker's work may take to end before it is put to sleep.
        call_limit_s: how long a worker may take over one call.
    """

    def __init__(self, fleet: Fleet, *, drain_limit_s: float, call_limit_s: float, tracer: Tracer = OFF) -> None:
        self._fleet = fleet
        self._tracer = tracer
        self._drain_limit_s = drain_limit_s
        self._call_limit_s = call_limit_s

    async def release(self, workers: Sequence[Worker], drain_limit_s: float | None = None) -> FanOutReply:
        """Put `workers` to sleep, each as soon as its work has ended.

        Raises:
            NoEligibleWorker: there is none that could be put to sleep.
        """
        limit_s = self._drain_limit_s if drain_limit_s is None else drain_limit_s
        asked: list[Asked] = []
        skips: list[SkippedRow] = []
        for worker in workers:
            try:
                ending = self._fleet.ask(SleepRequested(worker.worker_id, drain_limit_s=limit_s))
            except (Conflict, UnknownWorker) as error:
                skips.append(skipped(worker, error.message))
            else:
                asked.append(Asked(worker, ending))
        if not asked:
            raise NoEligibleWorker(self._fleet.pool.counts_by_status())
        # A call may wait behind the command that the worker is carrying out, so it may take two calls' time.
        with self._tracer.span("sleep", workers=len(asked)) as span:
            ended = await endings(asked, limit_s + 2 * self._call_limit_s)
            _note(span, ended)
        rows = [row_of_ending(one.worker, ending, _ASLEEP) for one, ending in zip(asked, ended, strict=True)]
        return reply(rows, skips, message=_if_all(rows, _ASLEEP, "all workers are already asleep"))

    async def resume(self, workers: Sequence[Worker]) -> FanOutReply:
        """Wake those of `workers` that sleep or are on their way to it; a drain for anything else goes on.

        Raises:
            NoEligibleWorker: there is no worker at all.
        """
        asked: list[Asked] = []
        rows: dict[str, FanOutRow] = {}
        skips: list[SkippedRow] = []
        for worker in workers:
            if not _sleeps_or_will(worker):
                rows[worker.worker_id] = FanOutRow(worker_url=worker.worker_id, status_code=200, body=_AWAKE)
                continue
            try:
                ending = self._fleet.ask(WakeRequested(worker.worker_id))
            except (Conflict, UnknownWorker) as error:
                skips.append(skipped(worker, error.message))
            else:
                asked.append(Asked(worker, ending))
        if not asked and not rows:
            raise NoEligibleWorker(self._fleet.pool.counts_by_status())
        with self._tracer.span("wake", workers=len(asked)) as span:
            ended = await endings(asked, 2 * self._call_limit_s)
            _note(span, ended)
        for one, end in zip(asked, ended, strict=True):
            rows[one.worker.worker_id] = row_of_ending(one.worker, end, _AWAKE)
        ordered = [rows[worker.worker_id] for worker in workers if worker.worker_id in rows]
        return reply(ordered, skips, message=_if_all(ordered, _AWAKE, "all workers are already awake"))


def _note(span: Open, ended: Sequence[Ending]) -> None:
    """Say how many workers did what they were asked for."""
    done = sum(ending.outcome is Outcome.DONE for ending in ended)
    span.attributes["done"] = done
    if done < len(ended):
        span.error = "not_all_done"


def _sleeps_or_will(worker: Worker) -> bool:
    waiting = worker.next_order
    return (
        worker.state in _ASLEEP_OR_ON_THE_WAY
        or worker.intent is Intent.SLEEP
        or worker.sleep_first
        or (waiting is not None and waiting.trigger is Trigger.SLEEP)
    )


def _if_all(rows: Sequence[FanOutRow], body: object, message: str) -> str | None:
    return message if all(row.body is body for row in rows) else None
