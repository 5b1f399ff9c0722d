"""The fleet without a network: a real pool and scheduler, commands that are only written down."""

import asyncio
import hashlib
import random
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from sglang_diffusion_routing.control.ports import Ending
from sglang_diffusion_routing.control.worker_api import Answer, Ended
from sglang_diffusion_routing.core.affinity import Affinity
from sglang_diffusion_routing.core.blackhole import STREAK, BlackHoles
from sglang_diffusion_routing.core.commands import (
    AnnounceDrain,
    CancelLeases,
    Command,
    ForgetWorker,
    OpenSentinel,
    Outcome,
    ProbeWorker,
    ReleaseMemory,
)
from sglang_diffusion_routing.core.events import (
    CapabilityLearned,
    CommandRefused,
    CommandSucceeded,
    HoldRequested,
    ProbeFailed,
    ProbeSucceeded,
    RefitRequested,
    RemovalRequested,
    SleepRequested,
    WorkerRegistered,
)
from sglang_diffusion_routing.core.health import ProbeFailure
from sglang_diffusion_routing.core.limits import SchedulerLimits
from sglang_diffusion_routing.core.pool import Pool
from sglang_diffusion_routing.core.ranking import HASHES_AT_ONCE
from sglang_diffusion_routing.core.scheduler import Scheduler
from sglang_diffusion_routing.core.state import WorkerState
from sglang_diffusion_routing.core.work import Lease, Result, Ticket, WorkSpec
from sglang_diffusion_routing.core.worker import Capability, Worker, WorkerId, WorkerUrl
from sglang_diffusion_routing.errors import Aborted, Conflict, NoRoutableWorker, RouterError, UnknownWorker
from sglang_diffusion_routing.runtime.loop import Fleet

A, B = WorkerId("http://a:1"), WorkerId("http://b:2")
SPEC = WorkSpec(route="images_generations")


class Client:
    """Who waits for a lease, and holds it."""

    def __init__(self, on_grant: Callable[[Lease], None] | None = None) -> None:
        self.lease: Lease | None = None
        self.error: RouterError | None = None
        self.told: list[str] = []
        self._on_grant = on_grant

    def granted(self, lease: Lease) -> None:
        self.lease = lease
        if self._on_grant is not None:
            self._on_grant(lease)

    def refused(self, error: RouterError) -> None:
        self.error = error

    def lease_cancelled(self, reason: str) -> None:
        self.told.append(reason)

    def worker_draining(self) -> None:
        self.told.append("draining")


class Harness:
    """A fleet, its clock stopped, and the commands it gave."""

    def __init__(self, policy: str = "least-request") -> None:
        pool = Pool()
        scheduler = Scheduler(SchedulerLimits(max_concurrency=1), pool.ledger, random.Random(0), policy)
        self.fleet = Fleet(pool, scheduler, Affinity(), BlackHoles())
        self.now_s = 100.0
        self.fleet.now_s = lambda: self.now_s
        self.commands: list[Command] = []
        self.fleet.run_command = self.commands.append

    def join(self, worker_id: WorkerId) -> Worker:
        """Register a worker that answers."""
        self.fleet.apply(WorkerRegistered(WorkerUrl.parse(worker_id)))
        worker = self.fleet.pool.workers[worker_id]
        self.fleet.apply(CapabilityLearned(worker_id, worker.incarnation, Capability(("T2I",), ("m",), learned=True)))
        self.fleet.apply(ProbeSucceeded(worker_id, worker.incarnation))
        return worker

    def lease(self, client: Client | None = None) -> Lease:
        """Take a lease that must be there at once."""
        taken = self.fleet.acquire(SPEC, client or Client())
        assert isinstance(taken, Lease)
        taken.holder = client
        return taken

    def wait(self, client: Client) -> Ticket:
        """Take a place in the queue."""
        taken = self.fleet.acquire(SPEC, client)
        assert isinstance(taken, Ticket)
        return taken

    def take_commands(self) -> list[Command]:
        commands, self.commands[:] = list(self.commands), []
        return commands


@pytest.fixture
async def harness() -> Harness:
    return Harness()


async def test_a_new_worker_is_probed_and_watched_once_it_answers(harness: Harness) -> None:
    worker = harness.join(A)
    assert harness.take_commands() == [ProbeWorker(A, worker.incarnation), OpenSentinel(A, worker.incarnation)]


async def test_a_released_lease_goes_to_who_waits(harness: Harness) -> None:
    harness.join(A)
    first, second = harness.lease(), Client()
    harness.wait(second)
    harness.fleet.release(first, Result.OK, 200)
    assert (second.lease is not None, harness.fleet.scheduler.in_flight(A)) == (True, 1)


async def test_a_waiter_that_gives_its_lease_back_at_once_recurses_into_nothing(harness: Harness) -> None:
    harness.join(A)
    lease = harness.lease()
    depth: list[int] = []
    under_way = 0

    def give_back(granted: Lease) -> None:
        nonlocal under_way
        under_way += 1
        depth.append(under_way)
        harness.fleet.release(granted, Result.ABANDONED)
        under_way -= 1

    clients = [Client(give_back) for _ in range(2000)]
    for client in clients:
        harness.wait(client)
    harness.fleet.release(lease, Result.OK)
    assert depth == [1] * 2000
    assert (harness.fleet.scheduler.live_leases, harness.fleet.scheduler.queued) == (0, 0)


async def test_a_waiter_that_fails_does_not_keep_the_others_waiting(harness: Harness) -> None:
    def fail(lease: Lease) -> None:
        harness.fleet.release(lease, Result.ABANDONED)
        raise RuntimeError("a bug of this waiter")

    harness.join(A)
    lease = harness.lease()
    broken, sound = Client(fail), Client()
    harness.wait(broken)
    harness.wait(sound)
    harness.fleet.release(lease, Result.OK)
    assert sound.lease is not None


async def test_who_leaves_between_grant_and_delivery_leaves_no_lease(harness: Harness) -> None:
    harness.join(A)
    harness.join(B)
    tickets: list[Ticket] = []
    last = Client()
    first = Client(lambda lease: harness.fleet.abandon(tickets[1]))
    leases = [harness.lease(), harness.lease()]
    tickets += [harness.wait(first), harness.wait(last)]
    harness.fleet.pause()
    for lease in leases:
        harness.fleet.release(lease, Result.OK)
    harness.fleet.resume()
    assert (first.lease is not None, last.lease, last.error) == (True, None, None)
    assert harness.fleet.scheduler.live_leases == 1


async def test_an_idle_worker_is_put_to_sleep_at_once(harness: Harness) -> None:
    harness.join(A)
    harness.take_commands()
    ending = harness.fleet.ask(SleepRequested(A))
    assert harness.take_commands() == [AnnounceDrain(A), ReleaseMemory(A, 1)]
    answer = Answer(Ended.SUCCEEDED, 200, {"success": True})
    harness.fleet.command_ended(CommandSucceeded(A, 1), answer)
    assert ending.result() == Ending(Outcome.DONE, "", answer)


async def test_a_busy_worker_is_put_to_sleep_when_its_last_lease_ends(harness: Harness) -> None:
    harness.join(A)
    lease = harness.lease()
    ending = harness.fleet.ask(SleepRequested(A))
    assert not any(isinstance(command, ReleaseMemory) for command in harness.commands)
    harness.fleet.release(lease, Result.OK, 200)
    assert harness.take_commands()[-1] == ReleaseMemory(A, 1)
    answer = Answer(Ended.REFUSED, 400, {"success": False, "message": "no"})
    harness.fleet.command_ended(CommandRefused(A, 1, "no"), answer)
    assert ending.result() == Ending(Outcome.REFUSED, "no", answer)


async def test_what_waited_behind_a_command_is_not_answered_with_what_the_worker_said_to_that(harness: Harness) -> None:
    harness.join(A)
    slept = harness.fleet.ask(SleepRequested(A))
    refitted = harness.fleet.ask(RefitRequested(A, "refit-1", "v1"))
    answer = Answer(Ended.SUCCEEDED, 200, {"success": True})
    harness.fleet.command_ended(CommandSucceeded(A, 1), answer)
    assert slept.result() == Ending(Outcome.DONE, "", answer)
    assert (refitted.result().outcome, refitted.result().answer) == (Outcome.CONFLICT, None)


async def test_what_is_the_case_already_is_answered_without_a_call(harness: Harness) -> None:
    harness.join(A)
    harness.fleet.ask(SleepRequested(A))
    harness.fleet.command_ended(CommandSucceeded(A, 1), Answer(Ended.SUCCEEDED, 200, {}))
    harness.take_commands()
    assert harness.fleet.ask(SleepRequested(A)).result() == Ending(Outcome.DONE)
    assert harness.take_commands() == []


async def test_a_drain_that_takes_too_long_is_given_up(harness: Harness) -> None:
    worker = harness.join(A)
    harness.lease()
    ending = harness.fleet.ask(SleepRequested(A, drain_limit_s=10))
    harness.now_s += 9.9
    harness.fleet.tick()
    assert not ending.done()
    harness.now_s += 0.2
    harness.fleet.tick()
    assert (ending.result().outcome, worker.state) == (Outcome.EXPIRED, WorkerState.ACTIVE)


async def test_what_is_not_allowed_is_raised_and_leaves_nothing_behind(harness: Harness) -> None:
    with pytest.raises(UnknownWorker):
        harness.fleet.ask(SleepRequested(A))
    worker = harness.join(A)
    harness.lease()
    harness.fleet.apply(RemovalRequested(A))
    with pytest.raises(Conflict):
        harness.fleet.ask(SleepRequested(A))
    assert worker.state is WorkerState.DRAINING


async def test_a_hold_is_drained_once(harness: Harness) -> None:
    worker = harness.join(A)
    lease = harness.lease()
    with capture_logs() as lines:
        ending = harness.fleet.ask(HoldRequested(A))
        assert [line["event"] for line in lines] == ["worker_status"]
        harness.fleet.release(lease, Result.OK)
        assert (ending.result().outcome, worker.state) == (Outcome.DONE, WorkerState.DRAINING)
        harness.fleet.apply(ProbeSucceeded(A, worker.incarnation))
        assert worker.state is WorkerState.DRAINING
    # Its status stays "draining": the line is all that says when it has nothing left to do.
    told = [(line["event"], line["log_level"], line["worker"]) for line in lines[1:]]
    assert told == [("worker_drained", "info", A)]


async def test_a_removed_worker_is_forgotten_when_its_last_lease_ends(harness: Harness) -> None:
    worker = harness.join(A)
    lease = harness.lease()
    harness.fleet.apply(RemovalRequested(A))
    harness.take_commands()
    harness.fleet.release(lease, Result.OK)
    assert harness.take_commands() == [ForgetWorker(A, worker.incarnation, worker.url)]
    assert harness.fleet.pool.get(A) is None


async def test_work_that_could_not_connect_has_its_worker_probed_at_once(harness: Harness) -> None:
    worker = harness.join(A)
    harness.take_commands()
    harness.fleet.release(harness.lease(), Result.CONNECT_FAILED)
    assert harness.take_commands() == [ProbeWorker(A, worker.incarnation)]


async def test_a_dead_scheduler_takes_its_worker_out(harness: Harness) -> None:
    worker = harness.join(A)
    for _ in range(3):
        harness.fleet.release(harness.lease(), Result.SCHEDULER_DIED)
    assert worker.status.value == "quarantined"


async def test_a_worker_that_says_it_sleeps_gets_no_more_work(harness: Harness) -> None:
    worker = harness.join(A)
    harness.fleet.release(harness.lease(), Result.ASLEEP, 500)
    assert worker.state is WorkerState.SLEEPING
    with pytest.raises(NoRoutableWorker):
        harness.fleet.acquire(SPEC, Client())


async def test_a_worker_that_fails_everything_while_another_does_well_is_taken_out(harness: Harness) -> None:
    workers = {A: harness.join(A), B: harness.join(B)}
    failed = 0
    while failed < STREAK:
        first, second = harness.lease(), harness.lease()
        for lease in (first, second):
            bad = lease.worker.worker_id == A
            failed += bad
            harness.fleet.release(lease, Result.SERVER_ERROR if bad else Result.OK, 500 if bad else 200)
    assert [workers[A].status.value, workers[B].status.value] == ["quarantined", "active"]


async def test_those_who_wait_are_refused_when_the_last_worker_goes(harness: Harness) -> None:
    worker = harness.join(A)
    harness.lease()
    client = Client()
    harness.wait(client)
    for _ in range(3):
        harness.fleet.apply(ProbeFailed(A, worker.incarnation, ProbeFailure.REFUSED, in_flight=1))
    assert isinstance(client.error, NoRoutableWorker)
    assert CancelLeases(A, "its probe failed: refused") in harness.commands


async def test_dropped_work_is_refused_and_counted(harness: Harness) -> None:
    harness.join(A)
    harness.lease()
    clients = [Client(), Client()]
    for client in clients:
        harness.wait(client)
    error = Aborted()
    assert harness.fleet.drop_queued(error) == 2
    assert [client.error for client in clients] == [error, error]
    assert harness.fleet.scheduler.queued == 0


async def test_ended_leases_are_counted_by_result(harness: Harness) -> None:
    harness.join(A)
    for result in (Result.OK, Result.OK, Result.ABANDONED):
        harness.fleet.release(harness.lease(), result)
    assert (harness.fleet.ended[Result.OK], harness.fleet.ended[Result.ABANDONED]) == (2, 1)


async def test_a_lease_ends_once(harness: Harness) -> None:
    harness.join(A)
    lease = harness.lease()
    harness.fleet.release(lease, Result.OK)
    with pytest.raises(AssertionError):
        harness.fleet.release(lease, Result.OK)
    assert harness.fleet.ended[Result.OK] == 1


async def test_what_waits_is_ranked_anew_with_turns_for_others_in_between() -> None:
    harness = Harness("consistent-hash")
    harness.join(A)
    clients = [Client() for _ in range(3 * HASHES_AT_ONCE)]
    for number, client in enumerate(clients):
        harness.fleet.acquire(WorkSpec(digest=hashlib.sha256(b"%d" % number).digest()), client)
    harness.join(B)
    assert [client.lease for client in clients[1:] if client.lease is not None] == []
    turns = 0
    while harness.fleet.scheduler.unranked:
        await asyncio.sleep(0)
        turns += 1
        assert turns < 100
    assert turns > 3
    (first,) = [client for client in clients[1:] if client.lease is not None]
    assert first.lease is not None
    assert first.lease.worker.worker_id == B
