import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from http1.peers import eventually, turns
from proxy.world import Jobs as Asked
from proxy.world import Ledger
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.affinity import Pinned
from sglang_diffusion_routing.core.limits import SchedulerLimits
from sglang_diffusion_routing.core.work import JobStatus, Lease, Result, WorkSpec
from sglang_diffusion_routing.core.worker import Worker, WorkerId, WorkerUrl
from sglang_diffusion_routing.errors import RouterError
from sglang_diffusion_routing.proxy import jobs as module
from sglang_diffusion_routing.proxy.jobs import Jobs

pytestmark = pytest.mark.core

URL = WorkerUrl("http", "w", 8000)
WORKER = WorkerId("http://w:8000")
RUNNING, ENDED, UNKNOWN, LOST = JobStatus.RUNNING, JobStatus.ENDED, JobStatus.UNKNOWN, JobStatus.LOST


class Nobody:
    """Waits for no lease."""

    def granted(self, lease: Lease) -> None:
        raise AssertionError

    def refused(self, error: RouterError) -> None:
        raise AssertionError


class Scene:
    """One worker, and jobs that hold leases on it."""

    def __init__(self) -> None:
        self.fleet = Ledger(SchedulerLimits(max_concurrency=0))
        self.fleet.apply(ev.WorkerRegistered(URL))
        incarnation = self.worker.incarnation
        self.fleet.apply(ev.ProbeSucceeded(WORKER, incarnation))
        self.asked = Asked()
        self.jobs = Jobs(self.fleet, self.asked)

    @property
    def worker(self) -> Worker:
        worker = self.fleet.pool.get(WORKER)
        assert worker is not None
        return worker

    def watch(self, job_id: str) -> Lease:
        lease = self.fleet.acquire(WorkSpec(creates_job=True), Nobody())
        assert isinstance(lease, Lease)
        self.jobs.watch("videos", job_id, lease)
        return lease

    async def ended(self, *results: Result) -> None:
        await eventually(lambda: len(self.fleet.ends) >= len(results) and not len(self.jobs))
        assert [result for _, result, _ in self.fleet.ends] == list(results)
        assert self.fleet.scheduler.in_flight(WORKER) == 0


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    yield scene
    await scene.jobs.aclose()
    assert scene.fleet.scheduler.live_leases == 0


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask workers every few milliseconds."""
    monkeypatch.setattr(module, "FIRST_POLL_S", 0.002)
    monkeypatch.setattr(module, "LAST_POLL_S", 0.004)


class TestPolling:
    @pytest.mark.usefixtures("fast")
    async def test_a_worker_is_asked_until_the_job_has_ended(self, scene: Scene) -> None:
        scene.asked.statuses.extend([RUNNING, LOST, RUNNING, ENDED])
        scene.watch("v1")
        await scene.ended(Result.OK)
        assert scene.asked.asked == [("videos", "v1", WORKER)] * 5

    @pytest.mark.usefixtures("fast")
    async def test_a_job_that_its_worker_no_longer_knows_is_waited_for_in_its_queue(self, scene: Scene) -> None:
        scene.asked.statuses.append(UNKNOWN)
        scene.watch("v1")
        await eventually(lambda: scene.asked.barriers == [WORKER])
        assert scene.fleet.ends == []
        scene.asked.barrier_is_back.set()
        await scene.ended(Result.OK)

    @pytest.mark.usefixtures("fast")
    async def test_jobs_end_one_by_one(self, scene: Scene) -> None:
        scene.watch("v1")
        scene.watch("v2")
        assert len(scene.jobs) == 2
        scene.jobs.heard("videos", "v2", b'{"status":"completed"}')
        await eventually(lambda: len(scene.jobs) == 1)
        assert scene.fleet.scheduler.in_flight(WORKER) == 1
        scene.asked.statuses.append(ENDED)
        await scene.ended(Result.OK, Result.OK)

    async def test_nobody_is_asked_at_once(self, scene: Scene) -> None:
        scene.watch("v1")
        await turns(100)
        assert scene.asked.asked == []

    async def test_it_is_asked_ever_more_seldom(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "FIRST_POLL_S", 0.01)
        monkeypatch.setattr(module, "LAST_POLL_S", 0.08)
        loop = asyncio.get_running_loop()
        asked_s: list[float] = [loop.time()]
        status = scene.asked.status

        async def timed(kind: str, job_id: str, worker: Worker) -> JobStatus:
            asked_s.append(loop.time())
            return ENDED if len(asked_s) == 9 else await status(kind, job_id, worker)

        monkeypatch.setattr(scene.asked, "status", timed)
        scene.watch("v1")
        await scene.ended(Result.OK)
        waits_s = [later_s - earlier_s for earlier_s, later_s in pairwise(asked_s)]
        least_s = [min(0.01 * 1.5**number, 0.08) for number in range(8)]
        # A timer of the loop may fire up to a millisecond early.
        assert [
            wait_s for wait_s, at_least_s in zip(waits_s, least_s, strict=True) if wait_s < at_least_s - 0.001
        ] == []


class TestNews:
    @pytest.mark.parametrize("word", ["completed", "FAILED", "cancelled"])
    async def test_what_a_client_heard_ends_the_job(self, scene: Scene, word: str) -> None:
        scene.watch("v1")
        scene.jobs.heard("videos", "v1", b'{"status": "%b"}' % word.encode())
        await scene.ended(Result.OK)
        assert scene.asked.asked == []

    @pytest.mark.parametrize(
        "body", [b'{"status": "queued"}', b"{}", b"", b'{"status": 5}', b'[{"status":"completed"}]']
    )
    async def test_anything_else_does_not(self, scene: Scene, body: bytes) -> None:
        lease = scene.watch("v1")
        scene.jobs.heard("videos", "v1", body)
        await turns()
        assert lease.live
        scene.jobs.heard("videos", "v1", b'{"status": "completed"}')
        await scene.ended(Result.OK)

    async def test_news_of_other_jobs_change_nothing(self, scene: Scene) -> None:
        lease = scene.watch("v1")
        scene.jobs.heard("videos", "v2", b'{"status": "completed"}')
        scene.jobs.heard("meshes", "v1", b'{"status": "completed"}')
        scene.jobs.deleted("videos", "v2")
        await turns()
        assert (lease.live, scene.asked.barriers) == (True, [])
        scene.jobs.heard("videos", "v1", b'{"status": "completed"}')
        await scene.ended(Result.OK)


class TestDeletion:
    async def test_it_waits_for_the_worker_s_queue(self, scene: Scene) -> None:
        scene.watch("v1")
        scene.jobs.deleted("videos", "v1")
        await eventually(lambda: scene.asked.barriers == [WORKER])
        await turns()
        assert scene.fleet.ends == []
        scene.asked.barrier_is_back.set()
        await scene.ended(Result.OK)

    @pytest.mark.parametrize("status", ["in_progress", "deleted", "completed"])
    async def test_an_answer_that_was_on_its_way_does_not_cut_that_short(self, scene: Scene, status: str) -> None:
        """The worker's word came before the deletion, or is about the record; the engine is still at work."""
        lease = scene.watch("v1")
        scene.jobs.deleted("videos", "v1")
        await eventually(lambda: scene.asked.barriers)
        scene.jobs.heard("videos", "v1", b'{"status": "%b"}' % status.encode())
        scene.jobs.deleted("videos", "v1")
        await turns()
        assert lease.live
        scene.asked.barrier_is_back.set()
        await scene.ended(Result.OK)

    async def test_the_worker_s_loss_does(self, scene: Scene) -> None:
        scene.watch("v1")
        scene.jobs.deleted("videos", "v1")
        await eventually(lambda: scene.asked.barriers)
        scene.fleet.apply(ev.WorkerDied(WORKER, scene.worker.incarnation, "gone"))
        await scene.ended(Result.DIED)


class TestEnds:
    async def test_a_lost_worker_loses_its_jobs(self, scene: Scene) -> None:
        for name in ("v1", "v2"):
            scene.watch(name)
        scene.fleet.apply(ev.WorkerDied(WORKER, scene.worker.incarnation, "gone"))
        await scene.ended(Result.DIED, Result.DIED)

    async def test_a_drain_waits_for_jobs(self, scene: Scene) -> None:
        lease = scene.watch("v1")
        scene.fleet.apply(ev.HoldRequested(WORKER))
        await turns()
        assert lease.live
        scene.jobs.heard("videos", "v1", b'{"status": "completed"}')
        await scene.ended(Result.OK)

    async def test_the_router_s_end_ends_the_following(self, scene: Scene) -> None:
        scene.watch("v1")
        scene.watch("v2")
        scene.jobs.deleted("videos", "v2")
        await eventually(lambda: scene.asked.barriers)
        await scene.jobs.aclose()
        await scene.ended(*[result for _, result, _ in scene.fleet.ends])
        assert len(scene.fleet.ends) == 2

    async def test_a_second_job_of_the_same_name_is_one_of_its_own(self, scene: Scene) -> None:
        scene.watch("v1")
        scene.jobs.heard("videos", "v1", b'{"status": "completed"}')
        second = scene.watch("v1")
        await eventually(lambda: len(scene.fleet.ends) == 1)
        assert second.live
        scene.jobs.heard("videos", "v1", b'{"status": "completed"}')
        await scene.ended(Result.OK, Result.OK)


async def test_who_made_a_thing_is_remembered(scene: Scene) -> None:
    scene.jobs.learn("images", "i1", scene.worker)
    owner = scene.fleet.affinity.owner("images", "i1", scene.fleet.now_s())
    assert owner == Pinned(WORKER, scene.worker.incarnation)
