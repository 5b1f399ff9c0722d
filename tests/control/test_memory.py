"""Whom sleep and wake are asked of, without a network: the test ends the commands."""

import asyncio

import pytest

from sglang_diffusion_routing.control.memory import Memory
from sglang_diffusion_routing.control.worker_api import Answer, Ended
from sglang_diffusion_routing.core.commands import ReleaseMemory, ResumeMemory
from sglang_diffusion_routing.core.events import CommandSucceeded, HoldRequested, QuarantineRequested, RemovalRequested
from sglang_diffusion_routing.core.work import WorkSpec
from sglang_diffusion_routing.errors import NoEligibleWorker
from sglang_diffusion_routing.schemas import FanOutReply, FanOutRow, SkippedRow
from support.fleet import RecordingFleet
from support.recorded import Recorded

pytestmark = pytest.mark.core
A, B = "http://a:1", "http://b:1"
SLEPT: dict[str, object] = {"success": True, "sleeping": True}
WOKEN: dict[str, object] = {"success": True, "sleeping": False}


class Sleepers(RecordingFleet):
    """Every worker does at once what it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.run_command = self._obey

    def _obey(self, command: object) -> None:
        self.commands.append(command)  # type: ignore[arg-type]
        if isinstance(command, ReleaseMemory | ResumeMemory):
            body = SLEPT if isinstance(command, ReleaseMemory) else WOKEN
            event = CommandSucceeded(command.worker_id, command.command_id)
            asyncio.get_running_loop().call_soon(self.command_ended, event, Answer(Ended.SUCCEEDED, 200, body))


@pytest.fixture
async def fleet() -> Sleepers:
    return Sleepers()


def memory(fleet: RecordingFleet) -> Memory:
    return Memory(fleet, drain_limit_s=5.0, call_limit_s=5.0)


def row(url: str, body: object, status: int = 200) -> FanOutRow:
    return FanOutRow(worker_url=url, status_code=status, body=body)


async def test_only_those_that_are_awake_are_called(fleet: Sleepers) -> None:
    a, b = fleet.join(A), fleet.join(B)
    assert await memory(fleet).release([a]) == FanOutReply(results=[row(A, SLEPT)], success=True, skipped=[])
    fleet.commands.clear()
    reply = await memory(fleet).release([a, b])
    already = {"success": True, "sleeping": True, "message": "already sleeping"}
    assert reply == FanOutReply(results=[row(A, already), row(B, SLEPT)], success=True, skipped=[])
    assert [command.worker_id for command in fleet.commands if isinstance(command, ReleaseMemory)] == [B]


async def test_only_those_that_sleep_are_woken(fleet: Sleepers) -> None:
    a, b = fleet.join(A), fleet.join(B)
    await memory(fleet).release([b])
    fleet.commands.clear()
    reply = await memory(fleet).resume([a, b])
    awake = {"success": True, "sleeping": False, "message": "already awake"}
    assert reply == FanOutReply(results=[row(A, awake), row(B, WOKEN)], success=True, skipped=[])
    assert [type(command) for command in fleet.commands] == [ResumeMemory]


async def test_quarantined_workers_are_tried_too(fleet: Sleepers) -> None:
    a = fleet.join(A)
    fleet.apply(QuarantineRequested(a.worker_id))
    assert (await memory(fleet).release([a])).success
    assert (await memory(fleet).resume([a])).success


async def test_a_worker_that_is_being_removed_is_skipped(fleet: Sleepers) -> None:
    a, b = fleet.join(A), fleet.join(B)
    fleet.acquire(WorkSpec(), None)  # type: ignore[arg-type]
    busy = a if fleet.scheduler.in_flight(a.worker_id) else b
    fleet.apply(RemovalRequested(busy.worker_id))
    reply = await memory(fleet).release([a, b])
    assert [skip.worker_url for skip in reply.skipped] == [busy.worker_id]
    assert all(isinstance(skip, SkippedRow) and skip.reason for skip in reply.skipped)


async def test_a_held_worker_stays_held_when_the_fleet_wakes(fleet: Sleepers) -> None:
    a = fleet.join(A)
    fleet.apply(HoldRequested(a.worker_id))
    await memory(fleet).resume([a])
    assert a.status.value == "draining"


async def test_nobody_to_ask_is_an_error(fleet: Sleepers) -> None:
    for call in (memory(fleet).release, memory(fleet).resume):
        with pytest.raises(NoEligibleWorker):
            await call([])


async def test_what_never_ends_is_reported_as_lost() -> None:
    fleet = RecordingFleet()
    a = fleet.join(A)
    reply = await Memory(fleet, drain_limit_s=0.01, call_limit_s=0.01).release([a])
    assert reply.results == [row(A, {"error": "not done within 0.03 s"}, 502)]


async def test_sleep_and_wake_are_spans_that_say_how_many_did_it(fleet: Sleepers) -> None:
    recorded = Recorded()
    a, b = fleet.join(A), fleet.join(B)
    asked = Memory(fleet, drain_limit_s=5.0, call_limit_s=5.0, tracer=recorded.tracer)
    await asked.release([a, b])
    await asked.resume([a])
    assert recorded.said("sleep") == [({"workers": 2, "done": 2}, None)]
    assert recorded.said("wake") == [({"workers": 1, "done": 1}, None)]


async def test_a_sleep_that_not_all_come_to_is_one_that_failed(fleet: Sleepers) -> None:
    recorded = Recorded()
    a, b = fleet.join(A), fleet.join(B)
    fleet.run_command = fleet.commands.append
    asked = Memory(fleet, drain_limit_s=0.01, call_limit_s=0.01, tracer=recorded.tracer)
    await asked.release([a, b])
    assert recorded.said("sleep") == [({"workers": 2, "done": 0}, "not_all_done")]
