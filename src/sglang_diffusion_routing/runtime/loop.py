"""Own pool, scheduler and affinity: here requests take and end leases, and here comes all that happens to workers.

The way of a request is a few plain calls. Whatever follows from a call (decisions for waiters, commands, further
events) goes through one outbox that is emptied in turn, so nobody is called back from inside the core, and a waiter
that gives its lease back at once, or a holder that releases when it is told to stop, recurses into nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import count

import structlog

from sglang_diffusion_routing.control.ports import Ending, Requested
from sglang_diffusion_routing.control.worker_api import Answer
from sglang_diffusion_routing.core.affinity import Affinity
from sglang_diffusion_routing.core.blackhole import BlackHoles
from sglang_diffusion_routing.core.commands import AnswerRequest, Command
from sglang_diffusion_routing.core.events import (
    CommandLost,
    CommandRefused,
    CommandSucceeded,
    Event,
    WorkerDrained,
    WorkFailed,
    WorkFoundAsleep,
    WorkKeptFailing,
)
from sglang_diffusion_routing.core.health import ProbeFailure
from sglang_diffusion_routing.core.pool import Pool
from sglang_diffusion_routing.core.scheduler import Scheduler
from sglang_diffusion_routing.core.state import WorkerState
from sglang_diffusion_routing.core.work import Decision, Granted, Lease, Refused, Result, Ticket, Waiter, WorkSpec
from sglang_diffusion_routing.core.worker import RequestId, Worker, WorkerId
from sglang_diffusion_routing.errors import RouterError
from sglang_diffusion_routing.runtime.journal import Journal
from sglang_diffusion_routing.runtime.saver import Saver
from sglang_diffusion_routing.runtime.watch import Watch

_log = structlog.get_logger(__name__)

# An enum's member costs 0.1 microseconds each time it is looked up by its class (Python 3.11).
_OK, _SERVER_ERROR, _DRAINING = Result.OK, Result.SERVER_ERROR, WorkerState.DRAINING

CommandEnded = CommandSucceeded | CommandRefused | CommandLost


class Fleet:
    """The workers and the work on them.

    Attributes:
        run_command: carries out the pool's commands; set once, before the first event.
        saver: writes down what outlives the router; without one nothing does.
        watch: tells of leases that end and workers that change. journal: of the latter to the log.
    """

    def __init__(
        self,
        pool: Pool,
        scheduler: Scheduler,
        affinity: Affinity,
        blackholes: BlackHoles,
        saver: Saver | None = None,
    ) -> None:
        self.pool = pool
        self.scheduler = scheduler
        self.affinity = affinity
        self.blackholes = blackholes
        self.saver = Saver(job_ttl_s=0.0) if saver is None else saver
        self.run_command: Callable[[Command], None] = _no_effects
        self._loop = asyncio.get_running_loop()
        self.now_s = self._loop.time
        self.watch = Watch(self.now_s)
        self.journal = Journal(self.watch)
        self._outbox: deque[Decision | Event | Command] = deque()
        self._delivering = False
        self._ranking = False
        self._requests: dict[RequestId, asyncio.Future[Ending]] = {}
        self._request_ids = count(1)
        self._answers: dict[RequestId, Answer] = {}

    # The way of a request.

    def acquire(self, spec: WorkSpec, waiter: Waiter) -> Lease | Ticket:
        """Take a lease, or a place in the queue.

        Raises:
            QueueFull, NoRoutableWorker, NoCapableWorker: there will be neither.
        """
        if not spec.group:
            got = self.scheduler.acquire(spec, waiter, self.now_s())
            if self.scheduler.displaced:
                self._outbox.extend(self.scheduler.follow_up(self.now_s()))
                self._deliver()
            return got
        try:
            return self.scheduler.acquire(spec, waiter, self.now_s())
        finally:
            self._outbox.extend(self.scheduler.follow_up(self.now_s()))
            self._deliver()

    def adopt(self, worker: Worker, spec: WorkSpec) -> Lease:
        """Take a lease for work that is on the worker already, as of a job that outlived an earlier router."""
        return self.scheduler.adopt(worker, spec, self.now_s())

    def abandon(self, ticket: Ticket) -> None:
        """Leave the queue. A lease that was granted but not yet handed over goes back."""
        self.scheduler.abandon(ticket)
        for item in self._outbox:
            if isinstance(item, Granted | Refused) and item.ticket is ticket:
                self._outbox.remove(item)
                if isinstance(item, Granted):
                    self.release(item.lease, Result.ABANDONED)
                return

    def release(self, lease: Lease, result: Result, status: int = 0) -> None:
        """End a lease, exactly once.

        Args:
            status: of the worker's reply, 0 when there was none.
        """
        outbox, worker = self._outbox, lease.worker
        outbox.extend(self.scheduler.release(lease, result, status, self.now_s()))
        if self.watch.is_watched:
            self.watch.ended(lease, result, status)
        if result <= _SERVER_ERROR:
            if self.blackholes.note(worker.worker_id, lease.spec.route, ok=result is _OK):
                outbox.append(WorkKeptFailing(worker.worker_id, worker.incarnation))
        elif result is not Result.ABANDONED:
            outbox.append(_news_of(lease, result))
        if worker.state is _DRAINING and not self.scheduler.in_flight(worker.worker_id):
            outbox.append(WorkerDrained(worker.worker_id, worker.incarnation))
        if outbox:
            self._deliver()

    @property
    def ended(self) -> list[int]:
        """How many leases have ended, by `Result`."""
        return self.scheduler.leases_ended()

    # What happens to workers.

    def apply(self, event: Event) -> None:
        """Take in what happened or was asked for, and do what follows from it.

        Raises:
            UnknownWorker, Conflict: for what was asked of a worker; nothing was changed.
        """
        self._handle(event)
        self._deliver()

    def ask(self, event: Requested) -> asyncio.Future[Ending]:
        """Ask something of a worker; the future tells how that ended.

        Raises:
            UnknownWorker, Conflict: nothing was changed.
        """
        request_id = RequestId(f"request-{next(self._request_ids)}")
        ending: asyncio.Future[Ending] = self._loop.create_future()
        self._requests[request_id] = ending
        try:
            self.apply(replace(event, request=request_id))
        except RouterError:
            del self._requests[request_id]
            raise
        return ending

    def command_ended(self, event: CommandEnded, answer: Answer) -> None:
        """Take in how a remote command ended, with the worker's answer for those who asked for it.

        Whoever waited behind the command has asked for something else: the answer is none of theirs.
        """
        worker = self.pool.get(event.worker_id)
        if worker is not None and worker.command_id == event.command_id and worker.order is not None:
            self._answers.update(dict.fromkeys(worker.order.requests, answer))
        self.apply(event)

    def tick(self) -> None:
        """Give up the drains and the waits whose time is up; to be called about four times a second."""
        now_s = self.now_s()
        self._follow_up(self.pool.tick(now_s), now_s)
        self._outbox.extend(self.scheduler.expire(now_s))
        self._deliver()

    # The queue, as an operator sees it.

    def pause(self) -> None:
        """Hold the queue: nothing is granted until `resume`."""
        self.scheduler.pause()

    def resume(self) -> None:
        """Let the queue go on."""
        self._outbox.extend(self.scheduler.resume(self.now_s()))
        self._deliver()

    def drop_queued(self, error: RouterError, matches: Callable[[WorkSpec], bool] | None = None) -> int:
        """Refuse what is queued, all of it or what matches, and tell how much that was."""
        if matches is None:
            refused = self.scheduler.drop_all(error)
        else:
            refused = self.scheduler.drop(lambda ticket: matches(ticket.spec), error)
        self._outbox.extend(refused)
        self._deliver()
        return len(refused)

    # What follows.

    def _handle(self, event: Event) -> None:
        now_s = self.now_s()
        self._follow_up(self.pool.handle(event, now_s), now_s)

    def _follow_up(self, commands: list[Command], now_s: float) -> None:
        """Queue up what follows from a change: the scheduler knows of it before any command runs."""
        self._outbox.extend(self.scheduler.refresh(self.pool.changed, now_s))
        if self.scheduler.unranked and not self._ranking:
            self._ranking = True
            self._loop.call_soon(self._rank_on)
        for worker in self.pool.changed:
            self.journal.note(worker)
            self.saver.note(worker)
            if worker.state is WorkerState.DRAINING and not self.scheduler.in_flight(worker.worker_id):
                self._drained(worker)
        self.saver.note_ledger(self.pool.ledger)
        self._outbox.extend(commands)

    def _rank_on(self) -> None:
        """Rank more of what waits, a turn of the loop at a time: there may be thousands, and others have work too."""
        self._outbox.extend(self.scheduler.rank_on(self.now_s()))
        self._ranking = bool(self.scheduler.unranked)
        if self._ranking:
            self._loop.call_soon(self._rank_on)
        self._deliver()

    def _drained(self, worker: Worker) -> None:
        """Tell the pool once that a worker has no work: a hold stays DRAINING, and would be told so for ever."""
        if worker.order is not None:
            self._outbox.append(WorkerDrained(worker.worker_id, worker.incarnation))

    def _deliver(self) -> None:
        """Empty the outbox in turn; called from within, the call under way goes on with what is new."""
        if self._delivering:
            return
        self._delivering = True
        outbox = self._outbox
        try:
            while outbox:
                self._dispatch(outbox.popleft())
        finally:
            self._delivering = False

    def _tell_held(self, worker_id: WorkerId) -> None:
        """Say that a worker which is held has nothing left to do: its status does not change by that."""
        worker = self.pool.get(worker_id)
        if worker is not None and worker.state is _DRAINING:
            _log.info("worker_drained", worker=worker_id)

    def _dispatch(self, item: Decision | Event | Command) -> None:
        try:
            match item:
                case Granted(ticket, lease):
                    ticket.waiter.granted(lease)
                case Refused(ticket, error):
                    ticket.waiter.refused(error)
                case AnswerRequest(request, _, outcome, reason):
                    ending, answer = self._requests.pop(request, None), self._answers.pop(request, None)
                    if ending is not None and not ending.done():
                        ending.set_result(Ending(outcome, reason, answer))
                case _ if isinstance(item, Command):
                    self.run_command(item)
                case WorkerDrained(worker_id):
                    self._handle(item)
                    self._tell_held(worker_id)
                case _:
                    self._handle(item)
        except Exception:  # noqa: BLE001 - each item is another party's; the rest must still be delivered
            _log.exception("delivery_failed", item=type(item).__name__)


def _news_of(lease: Lease, result: Result) -> Event:
    """Say what a failed piece of work tells of its worker."""
    worker = lease.worker
    if result is Result.ASLEEP:
        return WorkFoundAsleep(worker.worker_id, worker.incarnation, lease.granted_s)
    failure = ProbeFailure.ENGINE_DIED if result is Result.SCHEDULER_DIED else None
    return WorkFailed(worker.worker_id, worker.incarnation, failure)


def _no_effects(command: Command) -> None:
    raise RuntimeError(f"nobody carries out {command!r}")
