"""Pool and scheduler on a manual clock, tied together as the runtime ties them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import fields

from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.commands import Command, OpenSentinel
from sglang_diffusion_routing.core.health import HealthLimits
from sglang_diffusion_routing.core.limits import SchedulerLimits
from sglang_diffusion_routing.core.pool import Pool
from sglang_diffusion_routing.core.scheduler import Scheduler
from sglang_diffusion_routing.core.state import WorkerState
from sglang_diffusion_routing.core.work import Decision, Granted, Lease, Result, Ticket, WorkSpec
from sglang_diffusion_routing.core.worker import Capability, Worker, WorkerId, WorkerUrl
from sglang_diffusion_routing.errors import RouterError

T2I = Capability(("T2I",), ("m",), learned=True)
T2V = Capability(("T2V",), ("v",), learned=True)


def url(name: str) -> WorkerUrl:
    return WorkerUrl.parse(f"http://{name}:30000")


def worker_id(name: str) -> WorkerId:
    return WorkerId(str(url(name)))


def snapshot(worker: Worker) -> tuple[object, ...]:
    """Every field of the record, for showing that nothing has changed."""
    return tuple(getattr(worker, field.name) for field in fields(worker))


class Asker:
    """A waiter that keeps what it is told."""

    def __init__(self, spec: WorkSpec, asked_s: float = 0.0) -> None:
        self.spec = spec
        self.asked_s = asked_s
        self.ticket: Ticket | None = None
        self.lease: Lease | None = None
        self.error: RouterError | None = None
        self.answers = 0

    def granted(self, lease: Lease) -> None:
        self.lease = lease
        self.answers += 1

    def refused(self, error: RouterError) -> None:
        self.error = error
        self.answers += 1

    @property
    def waits(self) -> bool:
        return self.ticket is not None and not self.answers

    @property
    def got(self) -> str:
        """The name of the worker that was given."""
        assert self.lease is not None, self.error
        return self.lease.worker.url.host


class Fleet:
    """What an event changes reaches the scheduler first, and a worker without work is reported as drained at once.

    opens_sentinels: whether the silent connection to a worker stands as soon as it is asked for.
    ranks_at_once: whether all that waits is ranked anew before anything else happens.
    """

    opens_sentinels = True
    ranks_at_once = True

    def __init__(
        self,
        limits: SchedulerLimits | None = None,
        policy: str = "least-request",
        health: HealthLimits | None = None,
        seed: int = 0,
    ) -> None:
        self.now_s = 0.0
        self.pool = Pool(health)
        self.scheduler = Scheduler(limits or SchedulerLimits(), self.pool.ledger, random.Random(seed), policy)

    def apply(self, event: ev.Event) -> list[Command]:
        commands = self._follow(self.pool.handle(event, self.now_s))
        for command in list(commands):
            if isinstance(command, OpenSentinel) and self.opens_sentinels:
                commands += self.apply(ev.SentinelOpened(command.worker_id, command.incarnation))
        return commands

    def tick(self, after_s: float) -> list[Command]:
        self.now_s += after_s
        commands = self._follow(self.pool.tick(self.now_s))
        self.deliver(self.scheduler.expire(self.now_s))
        return commands

    def _follow(self, commands: list[Command]) -> list[Command]:
        changed = self.pool.changed
        self.deliver(self.scheduler.refresh(changed, self.now_s))
        while self.scheduler.unranked and self.ranks_at_once:
            self.deliver(self.scheduler.rank_on(self.now_s))
        for worker in changed:
            commands += self._drained(worker)
        return commands

    def _drained(self, worker: Worker) -> list[Command]:
        if worker.state is WorkerState.DRAINING and worker.order and not self.scheduler.in_flight(worker.worker_id):
            return self.apply(ev.WorkerDrained(worker.worker_id, worker.incarnation))
        return []

    def deliver(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, Granted):
                decision.ticket.waiter.granted(decision.lease)
            else:
                decision.ticket.waiter.refused(decision.error)

    def worker(self, name: str) -> Worker:
        worker = self.pool.get(worker_id(name))
        assert worker is not None
        return worker

    def register(self, name: str, max_concurrency: int | None = None, **labels: str) -> Worker:
        """A worker that has not been asked anything yet."""
        self.apply(ev.WorkerRegistered(url(name), tuple(labels.items()), max_concurrency))
        return self.worker(name)

    def learn(self, name: str, capability: Capability = T2I) -> None:
        self.apply(ev.CapabilityLearned(worker_id(name), self.worker(name).incarnation, capability))

    def answer(self, name: str) -> list[Command]:
        """The worker answers its probe."""
        return self.apply(ev.ProbeSucceeded(worker_id(name), self.worker(name).incarnation))

    def add(self, name: str, capability: Capability = T2I, max_concurrency: int | None = None, **labels: str) -> Worker:
        """A worker that takes work."""
        worker = self.register(name, max_concurrency, **labels)
        self.learn(name, capability)
        self.answer(name)
        return worker

    def ask(self, spec: WorkSpec | None = None) -> Asker:
        """Ask for a lease; whatever the answer, the asker has it."""
        asker = self.acquire(spec)
        self.deliver(self.scheduler.follow_up(self.now_s))
        return asker

    def acquire(self, spec: WorkSpec | None = None) -> Asker:
        """Ask for a lease, and leave what follows from that for others to be delivered."""
        asker = Asker(spec or WorkSpec(), self.now_s)
        try:
            got = self.scheduler.acquire(asker.spec, asker, self.now_s)
        except RouterError as error:
            asker.refused(error)
        else:
            if isinstance(got, Lease):
                asker.granted(got)
            else:
                asker.ticket = got
        return asker

    def end(self, asker: Asker, result: Result = Result.OK, status: int = 200) -> list[Command]:
        """The asker's work ends."""
        assert asker.lease is not None
        self.deliver(self.scheduler.release(asker.lease, result, status, self.now_s))
        return self._drained(asker.lease.worker)
