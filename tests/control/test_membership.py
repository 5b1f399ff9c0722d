import asyncio
import random

import pytest

from sglang_diffusion_routing.control.membership import WORKERS_MAX, Membership, Removal, Wanted
from sglang_diffusion_routing.control.prober import Prober
from sglang_diffusion_routing.control.worker_api import Answer, Ended, WorkerApi
from sglang_diffusion_routing.core.address import AllowList
from sglang_diffusion_routing.core.commands import Command
from sglang_diffusion_routing.core.events import RefitRequested, WorkerRegistered
from sglang_diffusion_routing.core.work import Lease, Result, WorkSpec
from sglang_diffusion_routing.core.worker import Capability, WorkerId, WorkerUrl
from sglang_diffusion_routing.errors import Conflict, InvalidField, InvalidWorkerUrl, TooManyWorkers, UnknownWorker
from sglang_diffusion_routing.schemas import UpdateWorker
from support.deadlines import PATIENCE_S
from support.fleet import RecordingFleet
from support.running import eventually

pytestmark = pytest.mark.core
A, B, C = (f"http://127.0.0.1:{port}" for port in (1, 2, 3))


class Well(WorkerApi):
    """Every worker is well, and says so once the gate is open. asked: probes so far."""

    def __init__(self) -> None:
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def health(self, url: WorkerUrl, timeout_s: float) -> Answer:
        self.asked += 1
        await self.gate.wait()
        return Answer(Ended.SUCCEEDED, 200, {})

    async def capability(self, url: WorkerUrl, timeout_s: float) -> Capability | None:
        return Capability(("T2V",), ("m",), learned=True)


class Setting:
    def __init__(self, *allowed: str) -> None:
        self.fleet = RecordingFleet()
        self.api = Well()
        self.prober = Prober(self.fleet, self.api, interval_s=10.0, timeout_s=1.0, rng=random.Random(0))
        self.membership = Membership(self.fleet, self.prober, AllowList.parse(allowed), first_probe_limit_s=PATIENCE_S)

    async def asked(self) -> int:
        return self.api.asked


class Nobody:
    """Waits for work, and does not care."""

    def granted(self, lease: Lease) -> None: ...
    def refused(self, error: Exception) -> None: ...


@pytest.fixture
async def setting() -> Setting:
    return Setting()


async def test_a_worker_has_been_probed_when_it_is_registered(setting: Setting) -> None:
    (worker,) = await setting.membership.register(Wanted("http://127.0.0.1:1"))
    assert (worker.status.value, setting.api.asked) == ("active", 1)


@pytest.mark.parametrize("refused", ["http://10.0.0.2:1", "gpu-1", "http://169.254.169.254", "http://127.0.0.1:1/x"])
async def test_one_url_that_is_refused_keeps_all_out(refused: str) -> None:
    setting = Setting("127.0.0.0/8")
    wanted = [Wanted("http://127.0.0.1:1"), Wanted(refused), Wanted("http://127.0.0.1:2")]
    with pytest.raises(InvalidWorkerUrl):
        await setting.membership.register(*wanted)
    with pytest.raises(InvalidWorkerUrl):
        await setting.membership.swap(wanted, force=False)
    with pytest.raises(InvalidWorkerUrl):
        await setting.membership.enlist(refused)
    assert (setting.fleet.events, setting.api.asked) == ([], 0)


async def test_workers_are_taken_in_with_what_they_are_given_and_each_once(setting: Setting) -> None:
    workers = await setting.membership.register(
        Wanted("http://127.0.0.1:2", (("zone", "b"),), 3),
        Wanted("http://127.0.0.1:1"),
        Wanted("HTTP://127.0.0.1:2/", (("zone", "b"),), 3),
    )
    assert [(w.worker_id, w.labels, w.max_concurrency, w.status.value) for w in workers] == [
        ("http://127.0.0.1:2", (("zone", "b"),), 3, "active"),
        ("http://127.0.0.1:1", (), None, "active"),
    ]
    assert setting.api.asked == 2


async def test_a_worker_that_is_there_takes_on_only_what_is_given(setting: Setting) -> None:
    url = "http://127.0.0.1:1"
    await setting.membership.register(Wanted(url, (("zone", "a"),), 3))
    (worker,) = await setting.membership.register(Wanted(url))
    assert (worker.incarnation, worker.labels, worker.max_concurrency) == (1, (("zone", "a"),), 3)
    (worker,) = await setting.membership.register(Wanted(url, (), 0))
    assert (worker.incarnation, worker.labels, worker.max_concurrency) == (1, (), 0)


async def test_the_first_probes_are_made_together_and_waited_for_no_longer_than_the_limit(setting: Setting) -> None:
    setting.api.gate.clear()
    setting.membership = Membership(setting.fleet, setting.prober, AllowList(), first_probe_limit_s=0.05)
    workers = await setting.membership.register(*(Wanted(f"http://127.0.0.1:{n}") for n in range(1, 6)))
    assert ([worker.status.value for worker in workers], setting.api.asked) == (["joining"] * 5, 5)
    setting.api.gate.set()
    await asyncio.wait([setting.prober.probe(worker) for worker in workers])
    assert {worker.status.value for worker in workers} == {"active"}


async def test_a_worker_named_twice_with_different_labels_is_refused(setting: Setting) -> None:
    with pytest.raises(InvalidField, match=r"'workers' names http://127\.0\.0\.1:1 twice, and not alike"):
        await setting.membership.register(
            Wanted("http://127.0.0.1:1", (("zone", "a"),)), Wanted("http://127.0.0.1:1/", (("zone", "b"),))
        )
    assert setting.fleet.events == []


async def test_there_is_a_limit_to_the_number_of_workers(setting: Setting) -> None:
    for n in range(WORKERS_MAX - 1):
        setting.fleet.pool.handle(WorkerRegistered(WorkerUrl("http", "10.0.0.1", n + 1)), 0.0)
    with pytest.raises(TooManyWorkers):
        await setting.membership.register(Wanted("http://10.0.0.2:1"), Wanted("http://10.0.0.2:2"))
    await setting.membership.enlist("http://10.0.0.2:1")
    with pytest.raises(TooManyWorkers):
        await setting.membership.enlist("http://10.0.0.2:2")
    assert (await setting.membership.enlist("http://10.0.0.1:1")).worker_id == "http://10.0.0.1:1"
    assert len(setting.fleet.pool.workers) == WORKERS_MAX


class TestASwap:
    async def test_takes_in_what_is_new_leaves_what_stays_and_removes_what_is_missing(self, setting: Setting) -> None:
        a, b = await setting.membership.register(Wanted(A, (("zone", "x"),)), Wanted(B))
        swap = await setting.membership.swap([Wanted(C), Wanted(A)], force=False)
        c = setting.membership.find(WorkerId(C))
        assert (swap.workers, swap.added, swap.kept, swap.draining, swap.removed) == ([c, a], [c], [a], [], [b])
        assert list(setting.fleet.pool.workers.values()) == [a, c]
        assert (a.labels, c.status.value) == ((("zone", "x"),), "active")

    async def test_lets_busy_workers_drain_unless_it_is_forced(self, setting: Setting) -> None:
        (a,) = await setting.membership.register(Wanted(A))
        setting.fleet.acquire(WorkSpec(), Nobody())
        assert (await setting.membership.swap([Wanted(B)], force=False)).draining == [a]
        assert a.status.value == "draining"
        assert (await setting.membership.swap([Wanted(B)], force=True)).removed == [a]
        assert list(setting.fleet.pool.workers) == [B]

    async def test_calls_the_removal_of_a_worker_off_that_it_names_again(self, setting: Setting) -> None:
        (a,) = await setting.membership.register(Wanted(A))
        setting.fleet.acquire(WorkSpec(), Nobody())
        await setting.membership.swap([], force=False)
        assert a.status.value == "draining"
        assert (await setting.membership.swap([Wanted(A)], force=False)).kept == [a]
        assert a.status.value == "active"

    async def test_removes_nothing_before_the_new_workers_have_been_probed(self, setting: Setting) -> None:
        (a,) = await setting.membership.register(Wanted(A))
        setting.api.gate.clear()
        swap = asyncio.ensure_future(setting.membership.swap([Wanted(B)], force=True))
        await eventually(setting.asked, lambda asked: asked == 2)
        assert (a.status.value, setting.membership.find(WorkerId(B)).status.value) == ("active", "joining")
        setting.api.gate.set()
        assert (await swap).removed == [a]

    async def test_gives_way_to_one_that_comes_while_it_waits(self, setting: Setting) -> None:
        (a,) = await setting.membership.register(Wanted(A))
        setting.api.gate.clear()
        first = asyncio.ensure_future(setting.membership.swap([Wanted(B)], force=False))
        await eventually(setting.asked, lambda asked: asked == 2)
        second = asyncio.ensure_future(setting.membership.swap([Wanted(A), Wanted(C)], force=False))
        await eventually(setting.asked, lambda asked: asked == 3)
        setting.api.gate.set()
        assert [worker.worker_id for worker in (await second).workers] == [A, C]
        with pytest.raises(Conflict, match="another set of workers was named in the meantime"):
            await first
        assert (list(setting.fleet.pool.workers), a.status.value) == ([A, C], "active")

    async def test_does_not_touch_who_came_or_was_registered_anew_while_it_waited(self, setting: Setting) -> None:
        (a,) = await setting.membership.register(Wanted(A))
        setting.api.gate.clear()
        swap = asyncio.ensure_future(setting.membership.swap([Wanted(B)], force=False))
        await eventually(setting.asked, lambda asked: asked == 2)
        setting.membership.remove(a, force=False)
        anew = await setting.membership.enlist(A)
        c = await setting.membership.enlist(C)
        setting.api.gate.set()
        assert (await swap).removed == [a]
        assert list(setting.fleet.pool.workers.values()) == [setting.membership.find(WorkerId(B)), anew, c]

    async def test_has_room_beside_the_set_that_goes(self, setting: Setting) -> None:
        for n in range(WORKERS_MAX):
            setting.fleet.pool.handle(WorkerRegistered(WorkerUrl("http", "10.0.0.1", n + 1)), 0.0)
        swap = await setting.membership.swap([Wanted(A)], force=False)
        assert (len(swap.removed), list(setting.fleet.pool.workers)) == (WORKERS_MAX, [A])
        with pytest.raises(TooManyWorkers):
            await setting.membership.swap(
                [Wanted(f"http://10.0.0.1:{n + 1}") for n in range(WORKERS_MAX + 1)], force=False
            )


async def test_a_group_is_removed_each_as_its_work_allows(setting: Setting) -> None:
    a, b = await setting.membership.register(Wanted(A), Wanted(B))
    lease = setting.fleet.acquire(WorkSpec(), Nobody())
    assert isinstance(lease, Lease)
    busy, idle = (a, b) if lease.worker is a else (b, a)
    removal = setting.membership.remove_all([a, b], force=False)
    assert removal == Removal(removed=[idle], draining=[busy])
    setting.fleet.release(lease, Result.OK, 200)
    assert setting.membership.remove_all([a, b], force=False) == Removal(removed=[a, b], draining=[])
    assert list(setting.fleet.pool.workers) == []


async def test_an_unknown_worker_is_named(setting: Setting) -> None:
    with pytest.raises(UnknownWorker) as caught:
        setting.membership.find(WorkerId("http://x:1"))
    assert caught.value.facts == {"worker_id": "http://x:1"}


async def test_a_change_sends_an_event_for_each_field_that_is_set(setting: Setting) -> None:
    worker = setting.fleet.join("http://127.0.0.1:1")
    change = UpdateWorker(
        is_dead=True, refresh_video_support=True, state="drained", max_concurrency=None, labels={"b": "2", "a": "1"}
    )
    await setting.membership.update(worker, change)
    assert [type(event).__name__ for event in setting.fleet.events] == [
        "HoldRequested",
        "MaxConcurrencySet",
        "LabelsSet",
        "QuarantineRequested",
        "CapabilityLearned",
    ]
    assert (worker.labels, worker.capability.task_types) == ((("a", "1"), ("b", "2")), ("T2V",))


async def test_active_does_not_call_a_refit_off(setting: Setting) -> None:
    worker = setting.fleet.join("http://127.0.0.1:1")
    setting.fleet.apply(RefitRequested(worker.worker_id, "r", "v1"))
    setting.fleet.events.clear()
    with pytest.raises(Conflict):
        await setting.membership.update(worker, UpdateWorker(state="active", max_concurrency=3))
    assert (setting.fleet.events, worker.max_concurrency) == ([], None)


async def test_a_removal_tells_whether_the_worker_is_gone(setting: Setting) -> None:
    idle = setting.fleet.join("http://127.0.0.1:1")
    assert setting.membership.remove(idle, force=False) is True
    commands: list[Command] = setting.fleet.commands
    assert type(commands[-1]).__name__ == "ForgetWorker"
