"""Carry out the pool's commands, and feed back how they ended."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from sglang_diffusion_routing.control.prober import Prober
from sglang_diffusion_routing.control.refitter import Refitter
from sglang_diffusion_routing.control.resync import Resyncer, Verdict
from sglang_diffusion_routing.control.sentinel import Sentinels
from sglang_diffusion_routing.control.updates import Update
from sglang_diffusion_routing.control.worker_api import Answer, Ended, Failure, WorkerApi
from sglang_diffusion_routing.core import commands as do
from sglang_diffusion_routing.core.events import CommandLost, CommandRefused, CommandSucceeded, WorkFoundAsleep
from sglang_diffusion_routing.core.work import Holder
from sglang_diffusion_routing.core.worker import Worker, WorkerId
from sglang_diffusion_routing.runtime.loop import Fleet
from sglang_diffusion_routing.tasks import Tasks

_log = structlog.get_logger(__name__)

Loading = do.UpdateWeights | do.ResyncWeights
Remote = do.ReleaseMemory | do.ResumeMemory | Loading

_ASLEEP = "server is sleeping"
"""A worker that somebody else has put to sleep loads nothing from disk and says so (SGLang 0.5.23, scheduler.py)."""


class Effects:
    """What the pool's commands do.

    Args:
        call_limit_s: how long a worker may take over one remote command.
    """

    def __init__(
        self,
        fleet: Fleet,
        api: WorkerApi,
        prober: Prober,
        sentinels: Sentinels,
        refitter: Refitter,
        resyncer: Resyncer,
        *,
        call_limit_s: float,
    ) -> None:
        self._fleet = fleet
        self._api = api
        self._prober = prober
        self._sentinels = sentinels
        self._refitter = refitter
        self._resyncer = resyncer
        self._call_limit_s = call_limit_s
        self._tasks = Tasks()

    async def aclose(self) -> None:
        """Break off the commands under way."""
        await self._tasks.cancel_all()

    def run(self, command: do.Command) -> None:
        """Begin to carry out `command`; returns at once."""
        match command:
            case do.ProbeWorker(worker_id):
                self._with(worker_id, self._prober.probe)
            case do.OpenSentinel(worker_id):
                self._with(worker_id, self._sentinels.open)
            case do.LearnChecksums(worker_id):
                self._with(worker_id, self._resyncer.learn)
            case do.CheckWeights(worker_id):
                self._with(worker_id, self._check)
            case do.ReleaseMemory() | do.ResumeMemory() | do.UpdateWeights() | do.ResyncWeights():
                self._tasks.spawn(self._carry_out(command), name=type(command).__name__)
            case do.CancelLeases(worker_id, reason):
                self._tell_holders(worker_id, lambda holder: holder.lease_cancelled(reason))
            case do.AnnounceDrain(worker_id):
                self._tell_holders(worker_id, lambda holder: holder.worker_draining())
            case do.ForgetWorker(worker_id, incarnation, url):
                self._sentinels.close(worker_id)
                self._prober.forget(worker_id)
                self._fleet.affinity.forget_worker(incarnation, str(url))
                self._fleet.blackholes.forget(worker_id)
            case do.AnswerRequest():
                raise TypeError("whoever keeps the requests answers them")

    def _with(self, worker_id: WorkerId, act: Callable[[Worker], object]) -> None:
        """Do something with a worker that may have been removed in the meantime."""
        worker = self._fleet.pool.get(worker_id)
        if worker is not None:
            act(worker)

    def _check(self, worker: Worker) -> None:
        self._tasks.spawn(self._resyncer.check(worker), name="CheckWeights")

    def _tell_holders(self, worker_id: WorkerId, tell: Callable[[Holder], None]) -> None:
        for lease in self._fleet.scheduler.leases_of(worker_id):
            if lease.live and lease.holder is not None:
                tell(lease.holder)

    async def _carry_out(self, command: Remote) -> None:
        """Make the call, and report exactly one end of it."""
        worker = self._fleet.pool.get(command.worker_id)
        if worker is None:
            return
        try:
            update: Update | Verdict = await self._call(command, worker)
        except Exception as error:  # noqa: BLE001 - a command that never ends would hold its worker for ever
            _log.exception("remote_command_broke_off", command=type(command).__name__, worker=command.worker_id)
            why = f"the router failed: {error}"
            update = Update(Answer(Ended.LOST, 502, {"error": why}, failure=Failure.BROKEN))
        self._report(command, worker, update)

    async def _call(self, command: Remote, worker: Worker) -> Update | Verdict:
        match command:
            case do.ReleaseMemory():
                return Update(await self._api.release_memory(worker.url, self._call_limit_s))
            case do.ResumeMemory():
                return Update(await self._api.resume_memory(worker.url, self._call_limit_s))
            case do.UpdateWeights():
                return await self._refitter.update(worker, command.refit_id)
            case do.ResyncWeights():
                return await self._resyncer.update(worker)

    def _report(self, command: Remote, worker: Worker, update: Update | Verdict) -> None:
        answer, worker_id, command_id = update.answer, command.worker_id, command.command_id
        match answer.ended:
            case Ended.SUCCEEDED:
                # The worker's new status is logged anyway; of 256 workers in one refit every line counts.
                self._fleet.command_ended(CommandSucceeded(worker_id, command_id), answer)
                return
            case Ended.REFUSED:
                asleep = isinstance(command, Loading) and _ASLEEP in answer.message.lower()
                unchanged = True if asleep else update.unchanged
                differs = isinstance(update, Verdict) and update.differs
                event = CommandRefused(worker_id, command_id, answer.message, unchanged, differs=differs)
                self._fleet.command_ended(event, answer)
                if asleep:
                    self._fleet.apply(WorkFoundAsleep(worker_id, worker.incarnation, self._fleet.now_s()))
            case Ended.LOST:
                self._fleet.command_ended(CommandLost(worker_id, command_id, answer.message), answer)
        _log.info(
            "remote_command_failed",
            command=type(command).__name__,
            worker=worker_id,
            ended=answer.ended.value,
            status=answer.status_code,
            why=answer.message,
        )
