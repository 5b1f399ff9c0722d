import asyncio
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from http1.peers import eventually, soon, turns
from proxy.world import Jobs as Asked
from proxy.world import Ledger, Saver
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.affinity import Pinned
from sglang_diffusion_routing.core.limits import SchedulerLimits
from sglang_diffusion_routing.core.policies import DEFAULT_POLICY
from sglang_diffusion_routing.core.state import WorkerState
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
        self.fleet = Ledger(SchedulerLimits(max_concurrency=0), DEFAULT_POLICY)
        self.fleet.apply(ev.WorkerRegistered(URL))
        incarnation = self.worker.incarnation
        self.fleet.apply(ev.ProbeSucceeded(WORKER, incarnation))
        self.asked = Asked()
        self.saver = Saver(is_durable=True)
        self.jobs = Jobs(self.fleet, self.asked, self.saver)

    @property
    def worker(self) -> Worker:
        worker = self.fleet.pool.get(WORKER)
        assert worker is not None
        return worker

    def watch(self, job_id: str) -> Lease:
        lease = self.fleet.acquire(WorkSpec(route="videos", creates_job=True), Nobody())
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

    async def test_how_long_those_took_that_ended_well_is_counted(self, scene: Scene) -> None:
        now_s = 100.0
        scene.fleet.now_s = lambda: now_s
        for job_id in ("v1", "v2", "v3"):
            scene.watch(job_id)
        now_s = 107.0
        scene.jobs.heard("videos", "v1", b'{"status":"completed"}')
        scene.jobs.heard("videos", "v2", b'{"status":"failed"}')
        await eventually(lambda: len(scene.jobs) == 1)
        assert {route: (sum(took.counts), took.total) for route, took in scene.jobs.took.items()} == {
            "videos": (1, 7.0)
        }

    async def test_one_that_was_begun_under_an_earlier_router_is_not_timed(self, scene: Scene) -> None:
        scene.jobs.adopt("videos", "v1", scene.worker)
        scene.jobs.heard("videos", "v1", b'{"status":"completed"}')
        await scene.ended(Result.OK)
        assert not scene.jobs.took

    async def test_nobody_is_asked_at_once(self, scene: Scene) -> None:
        scene.watch("v1")
        await turns(100)
        assert scene.asked.asked == []

    async def test_it_is_asked_ever_more_seldom(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        waits_s: list[float] = []
        timeout = asyncio.timeout

        def no_time(delay_s: float | None) -> asyncio.Timeout:
            """Write down how long the one who follows the job means to wait, and let that be over at once."""
            task = asyncio.current_task()
            if task is None or task.get_name() != "follow-videos":
                return timeout(delay_s)
            assert delay_s is not None
            waits_s.append(delay_s)
            return timeout(0)

        monkeypatch.setattr(asyncio, "timeout", no_time)
        scene.asked.statuses.extend([RUNNING] * 6 + [LOST, ENDED])
        scene.watch("v1")
        await scene.ended(Result.OK)
        assert waits_s == [1.0, 1.5, 2.25, 3.375, 5.0625, 7.59375, 10.0, 10.0, 10.0]
        assert len(scene.asked.asked) == 9


@pytest.mark.usefixtures("fast")
class TestNewsDuringAQuestion:
    """What is heard while the worker is being asked is newer than what it answers."""

    @pytest.fixture
    async def asking(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> asyncio.Future[JobStatus]:
        """A question about the job `v1` is under way; the future is its answer."""
        answer: asyncio.Future[JobStatus] = asyncio.get_running_loop().create_future()
        asked = asyncio.Event()

        async def status(kind: str, job_id: str, worker: Worker) -> JobStatus:
            asked.set()
            return await answer

        monkeypatch.setattr(scene.asked, "status", status)
        scene.watch("v1")
        await soon(asked.wait())
        return answer

    async def test_an_end_that_a_client_heard_counts(self, scene: Scene, asking: asyncio.Future[JobStatus]) -> None:
        scene.jobs.heard("videos", "v1", b'{"status": "completed"}')
        asking.set_result(RUNNING)
        await scene.ended(Result.OK)

    async def test_a_deletion_counts(self, scene: Scene, asking: asyncio.Future[JobStatus]) -> None:
        scene.jobs.deleted("videos", "v1")
        asking.set_result(ENDED)
        await eventually(lambda: scene.asked.barriers == [WORKER])
        assert scene.fleet.ends == []
        scene.asked.barrier_is_back.set()
        await scene.ended(Result.OK)

    async def test_a_lost_worker_has_lost_the_job_whatever_it_says(
        self, scene: Scene, asking: asyncio.Future[JobStatus]
    ) -> None:
        scene.fleet.apply(ev.WorkerDied(WORKER, scene.worker.incarnation, "gone"))
        assert [result for _, result, _ in scene.fleet.ends] == [Result.DIED]
        asking.set_result(RUNNING)
        await scene.ended(Result.DIED)


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
        with capture_logs() as lines:
            scene.fleet.apply(ev.WorkerDied(WORKER, scene.worker.incarnation, "gone"))
        await scene.ended(Result.DIED, Result.DIED)
        lost = [line for line in lines if line["event"] == "job_lost"]
        told = [(line["log_level"], line["kind"], line["job"], line["worker"], line["why"]) for line in lost]
        assert told == [("warning", "videos", name, WORKER, "gone") for name in ("v1", "v2")]

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


class TestSaving:
    async def test_a_job_is_noted_when_it_begins_and_when_it_has_ended(self, scene: Scene) -> None:
        scene.watch("v1")
        assert scene.saver.notes == [("videos", "v1", WORKER, True)]
        scene.jobs.heard("videos", "v1", b'{"status": "completed"}')
        await scene.ended(Result.OK)
        assert scene.saver.notes[1:] == [("videos", "v1", WORKER, False)]

    async def test_a_job_whose_worker_is_lost_has_ended(self, scene: Scene) -> None:
        scene.watch("v1")
        scene.fleet.apply(ev.WorkerDied(WORKER, scene.worker.incarnation, "gone"))
        await scene.ended(Result.DIED)
        assert scene.saver.notes[1:] == [("videos", "v1", WORKER, False)]

    async def test_a_job_that_outlives_the_router_has_not(self, scene: Scene) -> None:
        scene.watch("v1")
        await turns()
        await scene.jobs.aclose()
        assert scene.saver.notes == [("videos", "v1", WORKER, True)]

    async def test_the_end_of_one_says_nothing_of_another_of_its_name(self, scene: Scene) -> None:
        scene.watch("v1")
        scene.jobs.heard("videos", "v1", b'{"status": "completed"}')
        second = scene.watch("v1")
        await eventually(lambda: len(scene.fleet.ends) == 1)
        assert (second.live, [running for *_, running in scene.saver.notes]) == (True, [True, True])

    async def test_what_is_no_job_does_not_run(self, scene: Scene) -> None:
        scene.jobs.learn("images", "i1", scene.worker)
        assert scene.saver.notes == [("images", "i1", WORKER, False)]

    async def test_what_waits_for_the_disk_happens_when_it_is_done(self, scene: Scene) -> None:
        done: list[int] = []
        assert scene.jobs.save_then(lambda: done.append(1))
        await turns()
        assert (done, scene.saver.flushes) == ([], 1)
        scene.saver.disk_is_done.set()
        await eventually(lambda: done == [1])

    async def test_it_happens_also_when_that_fails(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        async def broken() -> bool:
            return False

        monkeypatch.setattr(scene.saver, "flush", broken)
        done: list[int] = []
        scene.jobs.save_then(lambda: done.append(1))
        await eventually(lambda: done == [1])

    async def test_without_a_disk_nothing_waits(self, scene: Scene) -> None:
        scene.saver.is_durable = False
        assert not scene.jobs.save_then(lambda: pytest.fail("it was to happen at once"))
        await turns()
        assert scene.saver.flushes == 0

    async def test_the_router_s_end_ends_the_wait(self, scene: Scene) -> None:
        done: list[int] = []
        scene.jobs.save_then(lambda: done.append(1))
        await turns()
        await scene.jobs.aclose()
        assert done == [1]


class TestAdoption:
    async def test_an_adopted_job_holds_a_lease_until_it_has_ended(self, scene: Scene) -> None:
        scene.jobs.adopt("videos", "v1", scene.worker)
        assert (scene.fleet.scheduler.in_flight(WORKER), len(scene.jobs), scene.saver.notes) == (1, 1, [])
        scene.jobs.heard("videos", "v1", b'{"status": "completed"}')
        await scene.ended(Result.OK)
        assert scene.saver.notes == [("videos", "v1", WORKER, False)]

    @pytest.mark.usefixtures("fast")
    async def test_its_worker_is_asked_about_it(self, scene: Scene) -> None:
        scene.asked.statuses.append(ENDED)
        scene.jobs.adopt("meshes", "m1", scene.worker)
        await scene.ended(Result.OK)
        assert scene.asked.asked[0] == ("meshes", "m1", WORKER)

    async def test_a_drain_waits_for_it(self, scene: Scene) -> None:
        scene.jobs.adopt("videos", "v1", scene.worker)
        scene.fleet.apply(ev.RemovalRequested(WORKER))
        await turns()
        assert scene.worker.state is WorkerState.DRAINING
        scene.jobs.heard("videos", "v1", b'{"status": "completed"}')
        await eventually(lambda: scene.fleet.pool.get(WORKER) is None)
        assert [result for _, result, _ in scene.fleet.ends] == [Result.OK]

    async def test_the_loss_of_its_worker_ends_it(self, scene: Scene) -> None:
        scene.jobs.adopt("videos", "v1", scene.worker)
        scene.fleet.apply(ev.WorkerDied(WORKER, scene.worker.incarnation, "gone"))
        await scene.ended(Result.DIED)


async def test_who_made_a_thing_is_remembered(scene: Scene) -> None:
    scene.jobs.learn("images", "i1", scene.worker)
    owner = scene.fleet.affinity.owner("images", "i1", scene.fleet.now_s())
    assert owner == Pinned(WORKER, scene.worker.incarnation)
