"""Tests of how one slot is kept: starts, deaths, restarts, orders."""

import asyncio

import pytest

from launchers.play import LOADS_S, Stage, on_stage
from sglang_diffusion_routing.errors import TooManyWorkers
from sglang_diffusion_routing.launchers.base import LaunchFailed
from sglang_diffusion_routing.launchers.slots import Order, Phase

pytestmark = pytest.mark.core

URL = "http://w0:1"


def test_a_worker_has_work_once_it_serves_and_no_sooner() -> None:
    async def play(stage: Stage) -> None:
        stage.supervisor.start()
        await stage.until(Phase.LOADING)
        assert stage.slot.tail == ("loading shard 1 of 2",)
        assert (stage.slot.pid, stage.slot.log, stage.slot.facts) == (1000, "/logs/0", {"gpus": "0"})
        await asyncio.sleep(LOADS_S - 1)
        assert stage.roster.told == []
        await stage.until(Phase.READY)
        assert stage.roster.told == [f"enlist 0 {URL}"]
        assert (stage.slot.restarts, stage.slot.tail, stage.slot.reason) == (0, (), "")

    on_stage(play)


def test_a_worker_that_dies_is_started_again_after_a_while() -> None:
    async def play(stage: Stage) -> None:
        await stage.ready()
        first = stage.worker
        first.die()
        await stage.until(Phase.BACKING_OFF)
        assert (stage.slot.reason, stage.slot.tail) == ("was killed by SIGSEGV", ("its last words",))
        await stage.until(Phase.READY)
        assert stage.worker is not first
        assert stage.slot.restarts == 1
        assert stage.phases == [
            Phase.LOADING,
            Phase.READY,
            Phase.BACKING_OFF,
            Phase.STARTING,
            Phase.LOADING,
            Phase.READY,
        ]
        down_s = [at_s for at_s, phase in stage.history if phase in {Phase.BACKING_OFF, Phase.STARTING}]
        assert down_s[1] - down_s[0] == pytest.approx(1.0)
        assert stage.roster.told == [f"enlist 0 {URL}", f"died {URL}: was killed by SIGSEGV", f"enlist 0 {URL}"]

    on_stage(play)


def test_a_crash_loop_ends_in_a_clear_state_until_an_operator_starts_it() -> None:
    async def play(stage: Stage) -> None:
        stage.backend.failures = [LaunchFailed(f"failed {number}", ("why",)) for number in range(4)]
        stage.supervisor.start()
        await stage.until(Phase.CRASH_LOOPING)
        assert (stage.slot.reason, stage.slot.tail, stage.slot.restarts) == ("failed 3", ("why",), 3)
        await asyncio.sleep(5000)
        assert stage.slot.phase is Phase.CRASH_LOOPING
        assert stage.backend.workers == []

    on_stage(play)


def test_a_looping_slot_that_is_started_has_all_its_tries_again() -> None:
    async def play(stage: Stage) -> None:
        await stage.ready()
        for _ in range(4):
            stage.worker.die()
            await stage.until(Phase.BACKING_OFF if stage.slot.restarts < 3 else Phase.CRASH_LOOPING)
            if stage.slot.phase is Phase.BACKING_OFF:
                await stage.until(Phase.READY)
        stage.supervisor.ask(URL, Order.START)
        await stage.until(Phase.READY)
        stage.worker.die()
        await stage.until(Phase.READY)

    on_stage(play)


def test_a_worker_that_does_not_come_up_in_time_is_killed_and_counts_as_dead() -> None:
    async def play(stage: Stage) -> None:
        stage.roster.loads_s = 1e9
        stage.supervisor.start()
        await stage.until(Phase.BACKING_OFF)
        assert stage.history[-1][0] == pytest.approx(100.0, abs=1.0)
        assert stage.worker.asked == ["kill"]
        assert (stage.slot.reason, stage.slot.tail) == ("did not serve within 100 s", ("its last words",))
        assert stage.roster.told == []

    on_stage(play)


def test_a_worker_that_dies_while_it_loads_is_never_registered() -> None:
    async def play(stage: Stage) -> None:
        stage.supervisor.start()
        await stage.until(Phase.LOADING)
        stage.worker.die("ended with status 1")
        await stage.until(Phase.BACKING_OFF)
        assert stage.roster.told == []

    on_stage(play)


def test_a_worker_whose_engine_died_alone_is_ended_and_started_again() -> None:
    async def play(stage: Stage) -> None:
        await stage.ready()
        first = stage.worker
        stage.roster.broken.add(URL)
        await asyncio.sleep(50)
        assert first.asked == []  # nobody asks a worker that passes its checks
        stage.roster.suspected.add(URL)
        await stage.until(Phase.BACKING_OFF)
        assert first.asked == ["kill"]
        assert stage.slot.reason == "lost the process that generates"
        stage.roster.broken.clear()
        stage.roster.suspected.clear()
        await stage.until(Phase.READY)

    on_stage(play)


def test_a_worker_that_only_fails_its_checks_is_left_alone() -> None:
    async def play(stage: Stage) -> None:
        await stage.ready()
        stage.roster.suspected.add(URL)
        await asyncio.sleep(1000)
        assert (stage.slot.phase, stage.worker.asked) == (Phase.READY, [])

    on_stage(play)


def test_nothing_is_started_while_the_fleet_sleeps() -> None:
    async def play(stage: Stage) -> None:
        await stage.ready()
        stage.roster.asleep = True
        stage.worker.die()
        await stage.until(Phase.WAITING)
        await asyncio.sleep(5000)
        assert (stage.slot.phase, len(stage.backend.workers)) == (Phase.WAITING, 1)
        assert stage.slot.reason == "was killed by SIGSEGV"
        stage.roster.asleep = False
        await stage.until(Phase.READY)
        assert len(stage.backend.workers) == 2

    on_stage(play)


def test_a_worker_that_may_not_be_one_is_ended() -> None:
    async def play(stage: Stage) -> None:
        stage.roster.refusing = TooManyWorkers(1)
        stage.supervisor.start()
        await stage.until(Phase.BACKING_OFF)
        assert stage.slot.reason.startswith("was not taken in: ")
        assert stage.worker.asked == ["kill"]

    on_stage(play)


def test_whatever_a_backend_raises_the_slot_lives_on() -> None:
    async def play(stage: Stage) -> None:
        stage.backend.failures = [KeyError("node")]
        stage.supervisor.start()
        await stage.until(Phase.BACKING_OFF)
        assert stage.slot.reason == "could not be started: 'node'"
        await stage.until(Phase.READY)

    on_stage(play)


# Orders.


def test_a_worker_that_is_stopped_ends_its_work_first_and_is_removed() -> None:
    async def play(stage: Stage) -> None:
        await stage.ready()
        assert stage.supervisor.ask(URL, Order.STOP).slot == 0
        await stage.until(Phase.STOPPING)
        await asyncio.sleep(2.9)
        assert stage.worker.asked == []
        await stage.until(Phase.STOPPED)
        assert stage.worker.asked == ["terminate 5"]
        assert stage.roster.told == [f"enlist 0 {URL}", f"drain {URL} for good"]
        await asyncio.sleep(5000)
        assert (stage.slot.phase, len(stage.backend.workers)) == (Phase.STOPPED, 1)
        stage.supervisor.ask(URL, Order.START)
        await stage.until(Phase.READY)
        assert stage.roster.told[-1] == f"enlist 0 {URL}"

    on_stage(play)


def test_a_worker_that_is_replaced_stays_registered() -> None:
    async def play(stage: Stage) -> None:
        await stage.ready()
        stage.supervisor.ask(URL, Order.RESTART)
        await stage.until(Phase.STOPPING)
        await stage.until(Phase.READY)
        assert stage.phases[2:] == [Phase.STOPPING, Phase.STOPPED, Phase.STARTING, Phase.LOADING, Phase.READY]
        assert stage.backend.workers[0].asked == ["terminate 5"]
        assert stage.roster.told == [
            f"enlist 0 {URL}",
            f"drain {URL}",
            f"died {URL}: it was stopped",
            f"enlist 0 {URL}",
        ]

    on_stage(play)


def test_by_force_a_worker_ends_at_once() -> None:
    async def play(stage: Stage) -> None:
        await stage.ready()
        stage.roster.drains_s = 1e9
        stage.supervisor.ask(URL, Order.RESTART, force=True)
        await stage.until(Phase.LOADING)
        assert stage.backend.workers[0].asked == ["terminate 0", "kill"]

    on_stage(play)


def test_force_may_be_asked_for_later() -> None:
    async def play(stage: Stage) -> None:
        await stage.ready()
        stage.roster.drains_s = 1e9
        stage.supervisor.ask(URL, Order.STOP)
        await asyncio.sleep(1000)
        assert stage.slot.phase is Phase.STOPPING
        stage.supervisor.ask(URL, Order.STOP, force=True)
        await stage.until(Phase.STOPPED)
        assert stage.roster.told[-1] == "dismiss 0" or not stage.roster.registered

    on_stage(play)


def test_a_worker_that_dies_while_it_drains_is_not_waited_for() -> None:
    async def play(stage: Stage) -> None:
        await stage.ready()
        stage.roster.drains_s = 1e9
        stage.supervisor.ask(URL, Order.RESTART)
        await stage.until(Phase.STOPPING)
        stage.worker.die()
        await stage.until(Phase.READY)

    on_stage(play)


@pytest.mark.parametrize(
    "phase", [Phase.STARTING, Phase.LOADING, Phase.BACKING_OFF, Phase.WAITING, Phase.CRASH_LOOPING]
)
@pytest.mark.parametrize("order", [Order.STOP, Order.RESTART])
def test_an_order_is_followed_from_every_phase(phase: Phase, order: Order) -> None:
    async def play(stage: Stage) -> None:
        await stage.ready()
        if phase is Phase.CRASH_LOOPING:
            stage.backend.failures = [LaunchFailed("failed")] * 3
        stage.roster.asleep = phase is Phase.WAITING
        if phase is Phase.STARTING:
            stage.backend.held.clear()
        stage.worker.die()
        await stage.until(phase)
        stage.roster.asleep = False
        stage.supervisor.ask(URL, order)
        stage.backend.held.set()
        await stage.until(Phase.STOPPED if order is Order.STOP else Phase.READY)
        assert stage.roster.is_registered(URL) == (order is Order.RESTART)

    on_stage(play)


def test_who_is_told_to_start_waits_no_longer() -> None:
    async def play(stage: Stage) -> None:
        await stage.ready()
        stage.worker.die()
        await stage.until(Phase.BACKING_OFF)
        stage.supervisor.ask(URL, Order.START)
        await asyncio.sleep(0.1)
        assert stage.slot.phase is Phase.LOADING

    on_stage(play)


@pytest.mark.parametrize("phase", [Phase.LOADING, Phase.READY])
def test_starting_what_runs_does_nothing_now_or_later(phase: Phase) -> None:
    async def play(stage: Stage) -> None:
        stage.supervisor.start()
        await stage.until(phase)
        stage.supervisor.ask(URL, Order.START)
        stage.worker.die()
        await stage.until(Phase.BACKING_OFF)
        await asyncio.sleep(0.9)
        assert stage.slot.phase is Phase.BACKING_OFF  # as long as ever

    on_stage(play)


def test_a_worker_that_an_operator_removed_is_ended() -> None:
    async def play(stage: Stage) -> None:
        await stage.ready()
        stage.roster.registered.clear()
        await stage.until(Phase.STOPPED)
        assert stage.worker.asked == ["terminate 5"]
        await asyncio.sleep(1000)
        assert stage.slot.phase is Phase.STOPPED

    on_stage(play)


def test_a_successor_at_another_address_takes_the_place_of_the_one_before() -> None:
    async def play(stage: Stage) -> None:
        await stage.ready()
        stage.worker.die()
        await stage.until(Phase.LOADING)
        assert (stage.slot.url, stage.roster.registered) == ("http://w1:1", {0: "http://w0:1"})
        found = stage.supervisor.find("http://w0:1")
        assert found is not None
        assert found.slot == 0
        await stage.until(Phase.READY)
        assert stage.roster.told[1:] == ["died http://w0:1: was killed by SIGSEGV", "enlist 0 http://w1:1"]
        assert stage.supervisor.find("http://w0:1") is None

    on_stage(play, keeps_url=False)


def test_where_the_address_changes_a_replaced_worker_is_removed() -> None:
    async def play(stage: Stage) -> None:
        await stage.ready()
        stage.supervisor.ask(URL, Order.RESTART)
        await stage.until(Phase.STOPPING)
        await stage.until(Phase.READY)
        assert stage.roster.told[1:] == [f"drain {URL} for good", "enlist 0 http://w1:1"]

    on_stage(play, keeps_url=False)
