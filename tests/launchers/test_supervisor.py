"""Tests of all slots together: waiting for them, finding one, and ending all."""

import asyncio

import pytest

from launchers.play import Stage, on_stage
from sglang_diffusion_routing.errors import Conflict, WorkersNotReady
from sglang_diffusion_routing.launchers.base import LaunchFailed
from sglang_diffusion_routing.launchers.slots import Order, Phase

pytestmark = pytest.mark.core


def test_who_waits_for_some_does_not_wait_for_all() -> None:
    async def play(stage: Stage) -> None:
        stage.backend.failures = [LaunchFailed("failed")]
        stage.supervisor.start()
        await stage.supervisor.wait_ready(2)
        assert stage.supervisor.ready == 2
        await stage.supervisor.wait_ready(0)
        await stage.supervisor.wait_ready(3)
        assert stage.supervisor.ready == 3

    on_stage(play, slots=3)


def test_what_can_never_be_is_not_waited_for() -> None:
    async def play(stage: Stage) -> None:
        stage.backend.failures = [LaunchFailed("could not be started", ("no such model",))] * 8
        stage.supervisor.start()
        with pytest.raises(WorkersNotReady) as caught:
            await stage.supervisor.wait_ready(2)
        assert asyncio.get_running_loop().time() < 60
        assert caught.value.facts["tail"] == ["no such model"]
        assert caught.value.message == (
            "0 of 2 workers are ready, and the others died too often; worker 0 could not be started"
        )

    on_stage(play, slots=2)


def test_a_wait_has_an_end() -> None:
    async def play(stage: Stage) -> None:
        stage.roster.loads_s = 1e9
        stage.supervisor.start()
        with pytest.raises(WorkersNotReady) as caught:
            await stage.supervisor.wait_ready(1)
        assert asyncio.get_running_loop().time() == pytest.approx(100.0, abs=1.0)
        assert caught.value.message.startswith(
            "0 of 1 workers are ready, and the others did not come up within 100 s; worker 0 "
        )

    on_stage(play)


def test_a_worker_is_found_by_its_url() -> None:
    async def play(stage: Stage) -> None:
        stage.supervisor.start()
        await stage.supervisor.wait_ready(2)
        found = stage.supervisor.find("http://w1:1")
        assert found is not None
        assert (found.slot, found.phase) == (1, Phase.READY)
        assert stage.supervisor.find("http://elsewhere:1") is None
        with pytest.raises(Conflict, match="http://elsewhere:1 was not started by this router"):
            stage.supervisor.ask("http://elsewhere:1", Order.STOP)

    on_stage(play, slots=2)


@pytest.mark.parametrize("order", [Order.START, Order.RESTART])
def test_nothing_is_started_by_hand_while_the_fleet_sleeps(order: Order) -> None:
    async def play(stage: Stage) -> None:
        await stage.ready()
        stage.roster.asleep = True
        with pytest.raises(Conflict, match="the fleet sleeps"):
            stage.supervisor.ask("http://w0:1", order)
        stage.supervisor.ask("http://w0:1", Order.STOP)
        await stage.until(Phase.STOPPED)

    on_stage(play)


def test_at_the_end_all_are_asked_and_none_is_started_again() -> None:
    async def play(stage: Stage) -> None:
        stage.supervisor.start()
        await stage.supervisor.wait_ready(2)
        stage.backend.workers[1].obeys = False
        began_s = asyncio.get_running_loop().time()
        await stage.supervisor.stop(30.0)
        assert asyncio.get_running_loop().time() - began_s == pytest.approx(5.0, abs=0.1)
        assert [worker.asked for worker in stage.backend.workers] == [["terminate 5"], ["terminate 5", "kill"]]
        await asyncio.sleep(1000)
        assert len(stage.backend.workers) == 2
        await stage.supervisor.aclose()
        assert stage.backend.closed

    on_stage(play, slots=2)


def test_who_dies_while_the_router_ends_is_not_started_again() -> None:
    async def play(stage: Stage) -> None:
        await stage.ready()
        stage.supervisor.stop_restarting()
        stage.worker.die()
        await stage.until(Phase.WAITING)
        await asyncio.sleep(1000)
        assert len(stage.backend.workers) == 1

    on_stage(play)


def test_the_grace_that_is_left_is_all_they_have() -> None:
    async def play(stage: Stage) -> None:
        await stage.ready()
        stage.worker.obeys = False
        began_s = asyncio.get_running_loop().time()
        await stage.supervisor.stop(1.5)
        assert asyncio.get_running_loop().time() - began_s == pytest.approx(1.5, abs=0.1)

    on_stage(play)


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.LOADING, Phase.READY, Phase.STOPPING, Phase.BACKING_OFF])
def test_a_hasty_end_leaves_nothing_in_any_phase(phase: Phase) -> None:
    async def play(stage: Stage) -> None:
        if phase is Phase.STARTING:
            stage.backend.held.clear()
        stage.supervisor.start()
        if phase is Phase.STOPPING:
            await stage.until(Phase.READY)
            stage.supervisor.ask("http://w0:1", Order.STOP)
        if phase is Phase.BACKING_OFF:
            await stage.until(Phase.LOADING)
            stage.worker.die()
        await stage.until(phase)
        await stage.supervisor.aclose()
        assert all(worker.pid is None for worker in stage.backend.workers)
        stage.backend.held.set()
        await asyncio.sleep(1000)
        assert all(worker.pid is None for worker in stage.backend.workers)
        await stage.supervisor.aclose()

    on_stage(play)
