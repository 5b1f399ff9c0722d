"""The real control plane in front of simulated workers, with clients that judge every lease they get."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from sglang_diffusion_routing.control.broadcast import Outgoing
from sglang_diffusion_routing.control.checksums import Baselines
from sglang_diffusion_routing.control.membership import Membership
from sglang_diffusion_routing.control.memory import Memory
from sglang_diffusion_routing.control.parameters import Pace
from sglang_diffusion_routing.control.plan import Refit
from sglang_diffusion_routing.control.ports import Ending, Requested
from sglang_diffusion_routing.control.prober import Prober
from sglang_diffusion_routing.control.refitter import Refitter
from sglang_diffusion_routing.control.resync import Resyncer
from sglang_diffusion_routing.control.spool import Spool
from sglang_diffusion_routing.control.worker_api import Answer
from sglang_diffusion_routing.core import commands as do
from sglang_diffusion_routing.core.address import AllowList
from sglang_diffusion_routing.core.affinity import Affinity
from sglang_diffusion_routing.core.blackhole import BlackHoles
from sglang_diffusion_routing.core.events import CommandLost, CommandRefused
from sglang_diffusion_routing.core.limits import QueueLimits, SchedulerLimits
from sglang_diffusion_routing.core.pool import Pool
from sglang_diffusion_routing.core.refit import Mode, StepKind
from sglang_diffusion_routing.core.scheduler import Scheduler
from sglang_diffusion_routing.core.state import COMMANDED, Health, Intent, Trigger, WorkerState
from sglang_diffusion_routing.core.weights import Currency, Loaded, Unversioned
from sglang_diffusion_routing.core.work import Lease, Result, WorkSpec
from sglang_diffusion_routing.core.worker import Watch, Worker, WorkerId
from sglang_diffusion_routing.errors import RouterError
from sglang_diffusion_routing.runtime.effects import Effects, Remote
from sglang_diffusion_routing.runtime.loop import CommandEnded, Fleet
from sglang_diffusion_routing.schemas import FanOutReply
from sglang_diffusion_routing.tasks import Tasks
from support.simulated import BASE, DISK, TENSOR, Asleep, Gone, SimulatedApi, SimulatedSentinels, SimulatedWorker

CALL_LIMIT_S = 20.0
DRAIN_LIMIT_S = 60.0
TICK_S = 0.25
TRIES = 3


class WatchedFleet(Fleet):
    """Keeps what was asked and how it ended, and tells of every end of a remote command.

    wrongs: promises that were broken, in words.
    """

    def __init__(self, pool: Pool, scheduler: Scheduler, on_end: Callable[[CommandEnded], None]) -> None:
        super().__init__(pool, scheduler, Affinity(), BlackHoles())
        self.wrongs: list[str] = []
        self.asked: list[asyncio.Future[Ending]] = []
        self._on_end = on_end

    def ask(self, event: Requested) -> asyncio.Future[Ending]:
        ending = super().ask(event)
        self.asked.append(ending)
        return ending

    def command_ended(self, event: CommandEnded, answer: Answer) -> None:
        self._on_end(event)
        worker = self.pool.get(event.worker_id)
        late = worker is not None and worker.command_id != event.command_id
        before = _record(worker)
        super().command_ended(event, answer)
        if late and _record(worker) != before:
            self.wrongs.append(f"a late answer of {event.worker_id} changed {before} into {_record(worker)}")


def _record(worker: Worker | None) -> object:
    return None if worker is None else (worker.state, worker.command_id, worker.loaded, worker.health, worker.order)


class Plane:
    """Everything that the router does to workers, on a loop that runs.

    Attributes:
        wrongs: promises that were broken, in words.
        calls: what was asked of the control plane, by name. requests: the clients' requests.
    """

    def __init__(self, workers: dict[str, SimulatedWorker], seed: int) -> None:
        self.workers = workers
        self.calls: list[asyncio.Task[Any]] = []
        self.requests: list[Request] = []
        self.commands: dict[int, tuple[Remote, Worker]] = {}
        self.ends: Counter[int] = Counter()
        pool, rng = Pool(drain_limit_s=DRAIN_LIMIT_S), random.Random(seed)
        scheduler = Scheduler(SchedulerLimits(QueueLimits(64), 2), pool.ledger, rng, "least-request")
        self.fleet = fleet = WatchedFleet(pool, scheduler, self._command_ended)
        self.wrongs = fleet.wrongs
        self.api = api = SimulatedApi(workers)
        limits: dict[str, Any] = {"call_limit_s": CALL_LIMIT_S, "max_reply_bytes": 4096}
        self.prober = Prober(fleet, api, interval_s=10.0, timeout_s=5.0, rng=rng)
        self.sentinels = SimulatedSentinels(workers, fleet.apply)
        self.baselines = Baselines(fleet, api, call_limit_s=CALL_LIMIT_S)
        self.refitter = Refitter(fleet, api, self.baselines, **limits)
        resyncer = Resyncer(fleet, api, self.baselines, **limits)
        self.effects = Effects(
            fleet,
            api,
            self.prober,
            self.sentinels,  # type: ignore[arg-type]  # stands in for the real ones
            self.refitter,
            resyncer,
            call_limit_s=CALL_LIMIT_S,
        )
        fleet.run_command = self._run_command
        self.membership = Membership(fleet, self.prober, AllowList(), first_probe_limit_s=10.0)
        self.memory = Memory(fleet, drain_limit_s=DRAIN_LIMIT_S, call_limit_s=CALL_LIMIT_S)
        self.tasks = Tasks()
        self.prober.start()
        self.tasks.spawn(self._tick(), name="tick")

    async def aclose(self) -> None:
        for part in (self.refitter, self.effects, self.baselines, self.prober, self.sentinels, self.api):
            await part.aclose()
        await self.tasks.cancel_all()

    async def _tick(self) -> None:
        while True:
            self.fleet.tick()
            await asyncio.sleep(TICK_S)

    def _run_command(self, command: do.Command) -> None:
        if isinstance(command, Remote):
            worker = self.fleet.pool.get(command.worker_id)
            assert worker is not None
            self.commands[command.command_id] = command, worker
            at_once = worker.order is not None and worker.order.trigger is Trigger.REFIT_NOW
            if self.fleet.scheduler.in_flight(worker.worker_id) and not at_once:
                self.wrongs.append(f"{command} while {worker.worker_id} is at work")
        if isinstance(command, do.ForgetWorker):
            if any(lease.live for lease in self.fleet.scheduler.leases_of(command.worker_id)):
                self.wrongs.append(f"{command.worker_id} was removed at its work")
            # It may sleep, or be told to by a call that is on its way, when it is registered anew.
            self.workers[command.worker_id].unsure = True
        self.effects.run(command)

    def _command_ended(self, event: CommandEnded) -> None:
        self.ends[event.command_id] += 1
        command, worker = self.commands[event.command_id]
        heard = worker.command_id == event.command_id
        if heard and isinstance(command, do.ReleaseMemory | do.ResumeMemory) and not isinstance(event, CommandRefused):
            self.workers[worker.worker_id].unsure = isinstance(event, CommandLost)

    # What may be asked.

    def call(self, doing: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Ask the control plane for something, as a route does, and see to the answer later."""
        task = self.tasks.spawn(doing, name=name, on_error=self._not_unforeseen)
        self.calls.append(task)
        return task

    def _not_unforeseen(self, error: BaseException) -> None:
        if not isinstance(error, RouterError):
            self.wrongs.append(f"a call ended in {error!r}")

    def refit(self, version: str, pace: Pace, kind: StepKind = StepKind.DISK) -> Coroutine[Any, Any, FanOutReply]:
        return self._refit(version, pace, kind, list(self.fleet.pool.workers.values()))

    async def _refit(self, version: str, pace: Pace, kind: StepKind, workers: list[Worker]) -> FanOutReply:
        content = json.dumps({"model_path": version}).encode() if kind is StepKind.DISK else version.encode()
        spool = Spool()
        await spool.fill(_chunks(content))
        outgoing = Outgoing("POST", DISK if kind is StepKind.DISK else TENSOR, spool)
        refit = Refit(kind, outgoing, version, DRAIN_LIMIT_S, pace, content if kind is StepKind.DISK else b"")
        return await self.refitter.run(lambda: workers, refit)

    def work(self, seconds: float) -> None:
        """Send a request that keeps a worker busy for so long."""
        request = Request(self, seconds)
        self.requests.append(request)
        request.ask()

    # What is true.

    def registered(self, names: Iterable[str]) -> list[Worker]:
        found = [self.fleet.pool.get(WorkerId(name)) for name in names]
        return [worker for worker in found if worker is not None]

    def judge_grant(self, lease: Lease) -> None:
        """Note what speaks against a lease, by the router's own records and by what is true of the worker."""
        worker = lease.worker
        sim = self.workers[worker.worker_id]
        others = [w for w in self.fleet.pool.workers.values() if w is not worker and self._is_sound(w)]
        if worker.state is not WorkerState.ACTIVE or worker.sleep_first:
            self.wrongs.append(f"a lease on {worker.worker_id}, which is {worker.status.value}")
        if worker.watch is Watch.ENDED:
            self.wrongs.append(f"a lease on {worker.worker_id}, whose process may have ended")
        if not self._is_wanted(worker):
            self.wrongs.append(f"a lease on {worker.worker_id}, which has {worker.loaded!r}")
        if worker.health is Health.QUARANTINED or (worker.health is Health.UNKNOWN and others):
            self.wrongs.append(f"a lease on {worker.worker_id}, whose health is {worker.health.value}")
        if sim.process is not None and sim.process.asleep and not sim.unsure:
            self.wrongs.append(f"a lease on {worker.worker_id}, which sleeps")

    def _is_wanted(self, worker: Worker) -> bool:
        """Tell whether a worker has what its group wants, or in a rolling refit wanted before."""
        if worker.weight_group is None:
            return worker.loaded is Unversioned.BASE
        group = self.fleet.pool.ledger.group(worker.weight_group)
        if group.open is not None and group.open.mode is not Mode.ROLLING and group.raised_by != group.open.refit_id:
            return False
        wanted = Unversioned.BASE if group.target is None else group.target
        rolling = group.open is not None and group.open.mode is Mode.ROLLING
        return worker.loaded == wanted or (rolling and worker.loaded == group.previous)

    def _is_sound(self, worker: Worker) -> bool:
        stays = worker.currency is Currency.CURRENT and not worker.sleep_first and worker.watch is not Watch.ENDED
        return worker.state is WorkerState.ACTIVE and worker.health is Health.HEALTHY and stays

    def is_quiet(self) -> bool:
        """Tell whether nothing is in flight anywhere."""
        workers = self.fleet.pool.workers.values()
        return (
            all(task.done() for task in self.calls)
            and not (self.api.under_way or self.fleet.scheduler.live_leases or self.fleet.scheduler.queued)
            and all(request.answers for request in self.requests)
            and all(w.state not in COMMANDED and w.intent in (None, Intent.HOLD) for w in workers)
            and not any(self._is_to_be_mended(worker) for worker in workers)
        )

    def _is_to_be_mended(self, worker: Worker) -> bool:
        """Tell whether a worker misses what the router can send it; one that sleeps unknown to the router refuses."""
        group = self.fleet.pool.ledger.group(worker.weight_group or "")
        can_be = group.target is not None and group.recipe.obstacle is None
        at_hand = worker.state is WorkerState.ACTIVE and worker.health is Health.HEALTHY
        return can_be and at_hand and not self._is_wanted(worker) and not self.workers[worker.worker_id].unsure

    def disagreements(self) -> list[str]:
        """List where the router's picture is not what is true; for when nothing is in flight."""
        found = list(self.wrongs)
        for command_id, (_, worker) in self.commands.items():
            ends = self.ends[command_id]
            if ends > 1 or (ends == 0 and self.fleet.pool.get(worker.worker_id) is worker):
                found.append(f"command {command_id} on {worker.worker_id} ended {ends} times")
        found += ["somebody who asked was never told" for ending in self.fleet.asked if not ending.done()]
        found += [f"a request was answered {r.answers} times" for r in self.requests if r.answers != 1]
        for worker in self.fleet.pool.workers.values():
            found += self._of(worker, self.workers[worker.worker_id])
        return found

    def _of(self, worker: Worker, sim: SimulatedWorker) -> list[str]:
        name, process = worker.worker_id, sim.process
        if process is None:
            return []
        found: list[str] = []
        sleeps = worker.state is WorkerState.SLEEPING
        if sleeps != process.asleep and not sim.unsure:
            found.append(f"{name} is {worker.state.value}, and in truth {'asleep' if process.asleep else 'awake'}")
        if worker.currency is Currency.CURRENT and process.weights != weights_of(worker.loaded):
            found.append(f"{name} is current with {worker.loaded!r}, and in truth has {process.weights!r}")
        return found


def weights_of(loaded: Loaded) -> str:
    """Give the name that a process has for what the router calls `loaded`."""
    return BASE if loaded is Unversioned.BASE else str(loaded)


async def _chunks(content: bytes) -> Any:
    yield content


class Request:
    """A client's request: takes a lease, works, and goes elsewhere when the worker is gone or asleep."""

    def __init__(self, plane: Plane, seconds: float) -> None:
        self._plane = plane
        self._seconds = seconds
        self._avoid: frozenset[WorkerId] = frozenset()
        self._tries = 0
        self._lease: Lease | None = None
        self._running: asyncio.Task[None] | None = None
        self.answers = 0
        self.good = False

    def ask(self) -> None:
        self._tries += 1
        try:
            got = self._plane.fleet.acquire(WorkSpec(avoid=self._avoid), self)
        except RouterError as error:
            self.refused(error)
        else:
            if isinstance(got, Lease):
                self.granted(got)

    def granted(self, lease: Lease) -> None:
        self._plane.judge_grant(lease)
        lease.holder = self
        self._lease = lease
        self._running = self._plane.tasks.spawn(self._work(lease), name="work")

    def refused(self, error: RouterError) -> None:
        self.answers += 1

    def lease_cancelled(self, reason: str) -> None:
        assert self._running is not None
        assert self._lease is not None
        self._running.cancel()
        self._end(self._lease, Result.ABANDONED)

    def worker_draining(self) -> None:
        """It goes on."""

    async def _work(self, lease: Lease) -> None:
        plane, worker = self._plane, lease.worker
        expected = weights_of(worker.loaded)
        result = Result.OK
        try:
            weights = await plane.workers[worker.worker_id].generate(self._seconds)
            if weights != expected:
                plane.wrongs.append(f"a sample of {worker.worker_id} said {expected!r} and was made on {weights!r}")
        except Asleep:
            result = Result.ASLEEP
        except Gone:
            result = Result.DIED
        self._end(lease, result)

    def _end(self, lease: Lease, result: Result) -> None:
        self._plane.fleet.release(lease, result, 200 if result is Result.OK else 0)
        if result is Result.OK or self._tries == TRIES:
            self.good = result is Result.OK
            self.answers += 1
            return
        self._avoid |= {lease.worker.worker_id}
        self.ask()


def all_good(reply: FanOutReply, workers: Sequence[Worker]) -> bool:
    """Tell whether every one of these workers did what was asked."""
    asked = {row.worker_url for row in reply.results}
    return reply.success and asked == {worker.worker_id for worker in workers}
