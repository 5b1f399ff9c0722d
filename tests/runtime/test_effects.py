"""What each command does, with real calls on stand-ins for workers."""

import asyncio
import socket

import pytest

from sglang_diffusion_routing.control.updates import Update
from sglang_diffusion_routing.core import commands as do
from sglang_diffusion_routing.core.affinity import Gone
from sglang_diffusion_routing.core.commands import Outcome
from sglang_diffusion_routing.core.events import (
    ChecksumsRead,
    CommandLost,
    HoldRequested,
    ProbeSucceeded,
    RefitRequested,
    RemovalRequested,
    SentinelLost,
    SentinelOpened,
    SleepRequested,
    WakeRequested,
    WeightsChecked,
)
from sglang_diffusion_routing.core.state import Health, WorkerState
from sglang_diffusion_routing.core.weights import Loaded, Unversioned
from sglang_diffusion_routing.core.work import Lease, WorkSpec
from sglang_diffusion_routing.core.worker import Worker, WorkerId, WorkerUrl
from support.engines import refit, restart
from support.raw_worker import answering, read_request, reply, serving
from support.running import eventually
from support.runtime import runtime

DONE = reply(200, b'{"success":true,"message":"done"}')


class Holder:
    """Holds a lease, and remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def granted(self, lease: Lease) -> None: ...

    def refused(self, error: Exception) -> None: ...

    def lease_cancelled(self, reason: str) -> None:
        self.told.append(reason)

    def worker_draining(self) -> None:
        self.told.append("draining")


@pytest.mark.parametrize(
    ("raw", "outcome", "reason", "state", "health"),
    [
        (DONE, Outcome.DONE, "", WorkerState.SLEEPING, Health.HEALTHY),
        (
            reply(400, b'{"success":false,"message":"busy"}'),
            Outcome.REFUSED,
            "busy",
            WorkerState.ACTIVE,
            Health.HEALTHY,
        ),
        (reply(200, b'{"success":false,"message":"no"}'), Outcome.REFUSED, "no", WorkerState.ACTIVE, Health.HEALTHY),
        (
            b"",
            Outcome.LOST,
            "Server disconnected without sending a response.",
            WorkerState.SLEEPING,
            Health.QUARANTINED,
        ),
    ],
)
async def test_a_release_ends_in_one_of_three_ways(
    raw: bytes, outcome: Outcome, reason: str, state: WorkerState, health: Health
) -> None:
    seen: list[tuple[bytes, bytes]] = []
    async with serving(answering(raw, seen)) as url, runtime() as run:
        worker = run.fleet.join(str(url))
        run.connect()
        ending = await run.fleet.ask(SleepRequested(worker.worker_id))
        assert (ending.outcome, ending.reason, worker.state, worker.health) == (outcome, reason, state, health)
        assert ending.answer is not None
        assert seen[0][0].startswith(b"POST /release_memory_occupation HTTP/1.1\r\n")


async def test_a_wake_calls_resume() -> None:
    seen: list[tuple[bytes, bytes]] = []
    async with serving(answering(DONE, seen)) as url, runtime() as run:
        worker = run.fleet.join(str(url))
        run.connect()
        await run.fleet.ask(SleepRequested(worker.worker_id))
        ending = await run.fleet.ask(WakeRequested(worker.worker_id))
        assert (ending.outcome, worker.state) == (Outcome.DONE, WorkerState.ACTIVE)
        assert seen[1][0].startswith(b"POST /resume_memory_occupation HTTP/1.1\r\n")


async def test_a_call_that_is_not_answered_is_lost_when_its_time_is_up() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(silent) as url, runtime(call_limit_s=0.05) as run:
        worker = run.fleet.join(str(url))
        run.connect()
        ending = await run.fleet.ask(SleepRequested(worker.worker_id))
        assert (ending.outcome, worker.health) == (Outcome.LOST, Health.QUARANTINED)


async def test_a_command_that_breaks_off_in_the_router_is_lost_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def break_off(worker: Worker, refit_id: str) -> Update:
        raise ZeroDivisionError

    async with serving(answering(DONE)) as url, runtime() as run:
        worker = run.fleet.join(str(url))
        run.connect()
        monkeypatch.setattr(run.refitter, "update", break_off)
        ending = await run.fleet.ask(RefitRequested(worker.worker_id, "refit-1", "v1"))
        assert ending.outcome is Outcome.LOST
        assert isinstance(run.fleet.events[-1], CommandLost)


async def test_a_worker_is_probed_and_then_watched() -> None:
    async with serving(answering(reply(200, b"{}"))) as url, runtime() as run:
        worker = run.fleet.join(str(url))
        run.connect()
        run.effects.run(do.ProbeWorker(worker.worker_id, worker.incarnation))

        async def news() -> list[object]:
            return [event for event in run.fleet.events if isinstance(event, ProbeSucceeded | SentinelLost)]

        await eventually(news, lambda events: events == [ProbeSucceeded(worker.worker_id, worker.incarnation)])
        run.effects.run(do.OpenSentinel(worker.worker_id, worker.incarnation))
    assert run.sentinels.ended_total <= 1


async def test_commands_for_a_worker_that_is_gone_do_nothing() -> None:
    async with runtime() as run:
        nobody = WorkerId("http://127.0.0.1:1")
        for command in (do.ProbeWorker(nobody, 1), do.OpenSentinel(nobody, 1), do.ReleaseMemory(nobody, 1)):
            run.effects.run(command)
        await run.effects.aclose()
        assert run.fleet.events == []


async def test_holders_are_told_of_a_drain_and_of_the_end() -> None:
    async with runtime() as run:
        worker = run.fleet.join("http://127.0.0.1:1")
        holders = [Holder(), Holder()]
        for holder in holders:
            lease = run.fleet.acquire(WorkSpec(), holder)
            assert isinstance(lease, Lease)
            lease.holder = holder
        run.connect()
        run.fleet.apply(HoldRequested(worker.worker_id))
        run.fleet.apply(RemovalRequested(worker.worker_id, force=True))
        assert [len(holder.told) for holder in holders] == [2, 2]
        assert holders[0].told[0] == "draining"


async def test_a_removed_worker_is_forgotten_and_its_jobs_say_so() -> None:
    connected, left = asyncio.Event(), asyncio.Event()

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        left.set()

    async with serving(watch) as url, runtime() as run:
        worker = run.fleet.join(str(url))
        run.fleet.affinity.remember("videos", "v1", worker, 100.0)
        run.connect()
        run.effects.run(do.OpenSentinel(worker.worker_id, worker.incarnation))
        async with asyncio.timeout(5):
            await connected.wait()
            run.fleet.apply(RemovalRequested(worker.worker_id))
            await left.wait()
        assert run.fleet.affinity.owner("videos", "v1", 100.0) == Gone(str(url))


async def test_a_sentinel_that_finds_nobody_makes_the_worker_doubtful() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = WorkerUrl("http", "127.0.0.1", held.getsockname()[1])
        async with runtime() as run:
            worker = run.fleet.join(str(url))
            run.connect()
            run.effects.run(do.OpenSentinel(worker.worker_id, worker.incarnation))

            async def status() -> str:
                return worker.status.value

            await eventually(status, lambda shown: shown == "quarantined")


@pytest.mark.parametrize(("its", "loaded"), [("same", Unversioned.BASE), ("another", Unversioned.OTHER)])
async def test_a_restarted_worker_is_compared_with_its_peer(its: str, loaded: Unversioned) -> None:
    peer_says, it_says = (answering(reply(200, b'{"transformer":"%b"}' % it)) for it in (b"same", its.encode()))
    async with serving(peer_says) as peer_url, serving(it_says) as url, runtime() as run:
        run.fleet.join(str(peer_url))
        worker = run.fleet.join(str(url))
        run.connect()
        restart(run.fleet, worker)

        async def has() -> Loaded:
            return worker.loaded

        await eventually(has, lambda has: has is loaded)
        assert worker.state is WorkerState.ACTIVE


async def test_a_resync_that_the_router_fails_at_is_lost() -> None:
    async with serving(answering(reply(200, b"{}"))) as url, runtime() as run:
        worker = run.fleet.join(str(url))
        run.fleet.join("http://127.0.0.1:1")
        run.fleet.run_command = lambda command: (
            run.effects.run(command) if isinstance(command, do.ResyncWeights) else None
        )
        run.resyncer.update = None  # type: ignore[assignment,method-assign]
        restart(run.fleet, worker)

        async def has() -> Loaded:
            return worker.loaded

        await eventually(has, lambda has: has is Unversioned.SUSPECT)
        assert (worker.state, worker.health) == (WorkerState.ACTIVE, Health.QUARANTINED)


@pytest.mark.parametrize(("its", "loaded"), [("same", Unversioned.BASE), ("another", Unversioned.SUSPECT)])
async def test_a_worker_whose_silent_connection_was_cut_is_looked_at(its: str, loaded: Unversioned) -> None:
    async with serving(answering(reply(200, b'{"transformer":"%b"}' % its.encode()))) as url, runtime() as run:
        worker = run.fleet.join(str(url))
        known = ChecksumsRead("m", Unversioned.BASE, {"transformer": "same"}, worker.worker_id, worker.updates)
        run.fleet.apply(known)
        run.fleet.run_command = lambda command: (
            run.effects.run(command) if isinstance(command, do.CheckWeights) else None
        )
        run.fleet.apply(SentinelLost(worker.worker_id, worker.incarnation, connections=1))
        run.fleet.apply(SentinelOpened(worker.worker_id, worker.incarnation))

        async def looked() -> bool:
            return any(isinstance(event, WeightsChecked) for event in run.fleet.events)

        await eventually(looked, bool)
        assert worker.loaded is loaded


async def test_a_version_that_nobody_knows_is_learned_from_a_worker_that_has_it() -> None:
    async with serving(answering(reply(200, b'{"transformer":"same"}'))) as url, runtime() as run:
        worker = run.fleet.join(str(url))
        run.effects.run(do.LearnChecksums(worker.worker_id, worker.incarnation))

        async def known() -> bool:
            return run.fleet.pool.ledger.expected("m", Unversioned.BASE) == {"transformer": "same"}

        await eventually(known, bool)


@pytest.mark.parametrize("status", [400, 500])
async def test_a_worker_that_refuses_weights_because_it_sleeps_is_asleep(status: int) -> None:
    asleep = b'{"success":false,"message":"Cannot update weights while the server is sleeping. Call resume."}'

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, _ = await read_request(reader)
        writer.write(reply(status, asleep) if b"update_weights" in head else reply(200, b'{"transformer":"x"}'))

    async with serving(answer) as peer_url, runtime() as run:
        worker = run.fleet.join(str(peer_url))
        run.fleet.join("http://127.0.0.1:1")
        refit(run.fleet, "v1", run.fleet.pool.workers[WorkerId("http://127.0.0.1:1")])
        assert worker.state is WorkerState.UPDATING
        run.effects.run(run.fleet.commands[-1])

        async def state() -> WorkerState:
            return worker.state

        await eventually(state, lambda state: state is WorkerState.SLEEPING)
        assert (worker.loaded, worker.health) == (Unversioned.BASE, Health.HEALTHY)
