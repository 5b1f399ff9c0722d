"""Tests of what stands between the launchers and the fleet."""

import asyncio
import random
from pathlib import Path

import pytest

from sglang_diffusion_routing.app.launcher import FleetRoster, supervisor
from sglang_diffusion_routing.control.membership import Membership, Wanted
from sglang_diffusion_routing.control.prober import Prober
from sglang_diffusion_routing.control.worker_api import Answer as Reply
from sglang_diffusion_routing.control.worker_api import Ended, Failure, WorkerApi
from sglang_diffusion_routing.core.address import AllowList
from sglang_diffusion_routing.core.events import (
    CommandLost,
    CommandSucceeded,
    HoldRequested,
    ProbeSucceeded,
    SleepRequested,
    WakeRequested,
)
from sglang_diffusion_routing.core.state import Intent, WorkerState
from sglang_diffusion_routing.core.work import Lease, Needs, Result, WorkSpec
from sglang_diffusion_routing.core.worker import Capability, Worker, WorkerId, WorkerUrl
from sglang_diffusion_routing.errors import BadSetting, InvalidWorkerUrl
from sglang_diffusion_routing.launchers.roster import Answer
from sglang_diffusion_routing.settings import Settings
from support.fleet import RecordingFleet

pytestmark = pytest.mark.core
A, B = "http://127.0.0.1:1", "http://127.0.0.1:2"

WELL = Reply(Ended.SUCCEEDED, 200, {})


class Played(WorkerApi):
    """Every worker answers the same."""

    def __init__(self) -> None:
        self.reply = WELL

    async def health(self, url: WorkerUrl, timeout_s: float) -> Reply:
        return self.reply

    async def capability(self, url: WorkerUrl, timeout_s: float) -> Capability | None:
        return Capability(("T2I",), ("m",), learned=True)


class Stage:
    def __init__(self, *allowed: str) -> None:
        self.fleet = RecordingFleet()
        self.api = Played()
        prober = Prober(self.fleet, self.api, interval_s=10.0, timeout_s=1.0, rng=random.Random(0))
        self.membership = Membership(self.fleet, prober, AllowList.parse(allowed), first_probe_limit_s=5.0)
        self.roster = FleetRoster(self.fleet, self.membership, self.api, timeout_s=1.0)

    def worker(self, url: str) -> Worker:
        return self.membership.find(WorkerId(url))

    def busy(self) -> Lease:
        lease = self.fleet.acquire(WorkSpec(Needs.IMAGE), Nobody())
        assert isinstance(lease, Lease)
        return lease

    def command_id(self, url: str) -> int:
        command_id = self.worker(url).command_id
        assert command_id is not None
        return command_id


class Nobody:
    def granted(self, lease: Lease) -> None: ...
    def refused(self, error: Exception) -> None: ...


@pytest.fixture
async def stage() -> Stage:
    return Stage()


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (WELL, Answer.SERVES),
        (Reply(Ended.REFUSED, 503, {"status": "unhealthy", "error": "x"}), Answer.ENGINE_DIED),
        (Reply(Ended.REFUSED, 503, {"raw": ""}), Answer.NOT_YET),
        (Reply(Ended.LOST, 502, {}, failure=Failure.UNREACHABLE), Answer.NOT_YET),
        (Reply(Ended.LOST, 502, {}, failure=Failure.TIMED_OUT), Answer.NOT_YET),
    ],
)
async def test_what_a_worker_says_of_its_health_is_read_as_by_the_probes(
    stage: Stage, reply: Reply, answer: Answer
) -> None:
    stage.api.reply = reply
    assert await stage.roster.ask(A) is answer


async def test_who_is_enlisted_may_have_work_at_once(stage: Stage) -> None:
    assert not stage.roster.is_registered(A)
    await stage.roster.enlist(0, A)
    assert stage.roster.is_registered(A)
    assert not stage.roster.is_suspected(A)
    stage.fleet.release(stage.busy(), Result.OK, 200)


async def test_who_died_has_none_until_it_is_enlisted_again(stage: Stage) -> None:
    await stage.roster.enlist(0, A)
    stage.roster.died(A, "was killed")
    assert (stage.worker(A).status.value, stage.roster.is_suspected(A)) == ("quarantined", True)
    await stage.roster.enlist(0, A)
    assert not stage.roster.is_suspected(A)
    stage.roster.died(B, "nobody minds")


async def test_a_successor_elsewhere_has_the_labels_and_the_cap_of_the_one_before(stage: Stage) -> None:
    await stage.roster.enlist(0, A)
    await stage.membership.register(Wanted(A, (("zone", "x"),), 3))
    stage.roster.died(A, "was killed")
    await stage.roster.enlist(0, B)
    assert list(stage.fleet.pool.workers) == [B]
    assert (stage.worker(B).labels, stage.worker(B).max_concurrency) == ((("zone", "x"),), 3)


async def test_an_address_that_another_slot_has_come_to_stays(stage: Stage) -> None:
    await stage.roster.enlist(0, A)
    stage.roster.died(A, "was killed")
    await stage.roster.enlist(1, A)
    await stage.roster.enlist(0, B)
    assert list(stage.fleet.pool.workers) == [A, B]
    stage.roster.dismiss(1)
    stage.roster.dismiss(1)
    assert list(stage.fleet.pool.workers) == [B]


async def test_who_may_not_be_a_worker_is_not_enlisted() -> None:
    stage = Stage("10.0.0.0/8")
    with pytest.raises(InvalidWorkerUrl):
        await stage.roster.enlist(0, A)


async def test_a_restart_holds_a_worker_until_it_is_back(stage: Stage) -> None:
    await stage.roster.enlist(0, A)
    lease = stage.busy()
    draining = asyncio.ensure_future(stage.roster.drain(A, for_good=False, force=False))
    await asyncio.sleep(0)
    assert (stage.worker(A).intent, draining.done()) == (Intent.HOLD, False)
    stage.fleet.release(lease, Result.OK, 200)
    await draining
    stage.roster.died(A, "was stopped")
    assert stage.worker(A).intent is Intent.HOLD
    await stage.roster.enlist(0, A)
    assert stage.worker(A).intent is None


async def test_an_operators_hold_outlasts_a_restart(stage: Stage) -> None:
    await stage.roster.enlist(0, A)
    lease = stage.busy()
    stage.fleet.apply(HoldRequested(WorkerId(A)))
    draining = asyncio.ensure_future(stage.roster.drain(A, for_good=False, force=False))
    await asyncio.sleep(0)
    assert not draining.done()
    stage.fleet.release(lease, Result.OK, 200)
    await draining
    stage.roster.died(A, "was stopped")
    await stage.roster.enlist(0, A)
    assert stage.worker(A).intent is Intent.HOLD


async def test_who_cannot_be_held_is_not_waited_for(stage: Stage) -> None:
    await stage.roster.enlist(0, A)
    stage.fleet.apply(SleepRequested(WorkerId(A)))
    stage.fleet.apply(CommandSucceeded(WorkerId(A), stage.command_id(A)))
    assert stage.roster.asleep
    await stage.roster.drain(A, for_good=False, force=False)
    await stage.roster.drain(B, for_good=True, force=False)


async def test_who_died_asleep_and_missed_the_waking_is_awake_when_it_is_back(stage: Stage) -> None:
    for slot, url in enumerate((A, B)):
        await stage.roster.enlist(slot, url)
        await stage.membership.register(Wanted(url, (("slot", str(slot)),)))
        stage.fleet.apply(SleepRequested(WorkerId(url)))
        stage.fleet.apply(CommandSucceeded(WorkerId(url), stage.command_id(url)))
    stage.fleet.instant_s += 1
    stage.roster.died(A, "was killed")
    stage.roster.died(B, "was killed")
    assert stage.roster.asleep
    stage.fleet.instant_s += 1
    for url in (A, B):
        stage.fleet.apply(WakeRequested(WorkerId(url)))
        stage.fleet.apply(CommandLost(WorkerId(url), stage.command_id(url), "nobody listens"))
    assert (stage.fleet.pool.asleep, stage.roster.asleep) == (True, False)
    for slot, url in enumerate((A, B)):
        await stage.roster.enlist(slot, url)
        assert (stage.worker(url).state, stage.worker(url).labels) == (WorkerState.ACTIVE, (("slot", str(slot)),))


@pytest.mark.parametrize("sleeps_again", [False, True])
async def test_whose_successor_was_put_to_sleep_before_it_was_back_is_woken(stage: Stage, sleeps_again: bool) -> None:
    for slot, url in enumerate((A, B)):
        await stage.roster.enlist(slot, url)
    stage.fleet.apply(SleepRequested(WorkerId(A)))
    stage.fleet.apply(CommandSucceeded(WorkerId(A), stage.command_id(A)))
    stage.fleet.instant_s += 1
    stage.roster.died(A, "was killed")
    stage.fleet.apply(WakeRequested(WorkerId(A)))
    stage.fleet.apply(CommandLost(WorkerId(A), stage.command_id(A), "nobody listens"))
    stage.fleet.apply(ProbeSucceeded(WorkerId(A), stage.worker(A).incarnation))
    assert stage.worker(A).state is WorkerState.RELEASING
    if sleeps_again:
        stage.fleet.apply(CommandSucceeded(WorkerId(A), stage.command_id(A)))
        assert stage.worker(A).state is WorkerState.SLEEPING
    await stage.roster.enlist(0, A)
    if not sleeps_again:
        stage.fleet.apply(CommandSucceeded(WorkerId(A), stage.command_id(A)))
    assert stage.worker(A).state is WorkerState.RESUMING
    stage.fleet.apply(CommandSucceeded(WorkerId(A), stage.command_id(A)))
    assert stage.worker(A).state is WorkerState.ACTIVE


async def test_who_is_to_go_for_good_is_gone_when_its_work_is(stage: Stage) -> None:
    await stage.roster.enlist(0, A)
    lease = stage.busy()
    draining = asyncio.ensure_future(stage.roster.drain(A, for_good=True, force=False))
    await asyncio.sleep(0)
    assert stage.worker(A).intent is Intent.REMOVE
    stage.fleet.release(lease, Result.OK, 200)
    await asyncio.wait_for(draining, 5)
    assert not stage.roster.is_registered(A)


@pytest.mark.parametrize("for_good", [True, False])
async def test_force_waits_for_nothing(stage: Stage, for_good: bool) -> None:
    await stage.roster.enlist(0, A)
    stage.busy()
    await asyncio.wait_for(stage.roster.drain(A, for_good=for_good, force=True), 5)
    assert stage.roster.is_registered(A) != for_good


# The settings.


def made(stage: Stage, **settings: object) -> object:
    return supervisor(Settings.model_validate(settings), {}, stage.fleet, stage.membership, stage.api)


async def test_without_a_launcher_file_there_is_no_supervisor(stage: Stage) -> None:
    assert made(stage) is None


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"min_ready": 1}, "--min-ready needs workers that the router starts (--launcher-config)"),
        ({"min_ready": 3, "launcher_config": "FILE"}, "--min-ready is 3, and there are to be 2 workers"),
        ({"launcher_config": "/no/such/file"}, "/no/such/file cannot be read: No such file or directory"),
    ],
)
async def test_what_cannot_be_is_one_sentence(
    stage: Stage, tmp_path: Path, settings: dict[str, object], sentence: str
) -> None:
    file = tmp_path / "launcher.yaml"
    file.write_text("launcher: {model: m, num_workers: 2}\n")
    if settings.get("launcher_config") == "FILE":
        settings = {**settings, "launcher_config": str(file)}
    with pytest.raises(BadSetting) as caught:
        made(stage, **settings)
    assert caught.value.message == sentence
