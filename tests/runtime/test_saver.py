"""What is written down of workers, weights, jobs and refits."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from sglang_diffusion_routing.core.events import (
    CommandLost,
    CommandSucceeded,
    HoldRequested,
    LabelsSet,
    LedgerRestored,
    MaxConcurrencySet,
    ProbeFailed,
    QuarantineLifted,
    QuarantineRequested,
    RemovalRequested,
    SleepRequested,
    WakeRequested,
    WorkerRegistered,
    WorkerRestored,
)
from sglang_diffusion_routing.core.health import ProbeFailure
from sglang_diffusion_routing.core.refit import Mode
from sglang_diffusion_routing.core.weights import Group
from sglang_diffusion_routing.core.work import Lease, Result, WorkSpec
from sglang_diffusion_routing.core.worker import Worker, WorkerId, WorkerUrl
from sglang_diffusion_routing.runtime.saver import Saver
from sglang_diffusion_routing.store import Saved, SavedJob, SavedRefit, SavedWorker, Store
from support.fleet import RecordingFleet

A = SavedWorker(1, "http://a:1")


class Desk:
    """A fleet, its saver and the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fleet = RecordingFleet()
        self.saver = self.fleet.saver = Saver(job_ttl_s=1000.0)
        self.store: Store | None = None

    def attach(self) -> Saved:
        self.store, saved = Store.open(self.path, resume=True, job_cap=100)
        saved = saved or Saved()
        self.saver.attach(self.store, saved.workers)
        return saved

    def start(self) -> None:
        self.saver.start()

    async def written(self) -> Saved:
        """Give what a router after this one would restore, and let this one go on."""
        await self.saver.aclose(clean=False)
        store, saved = Store.open(self.path, resume=True, job_cap=100)
        store.start()
        self.saver._store = self.store = store
        return saved or Saved()


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path / "state.db")
    desk.attach()
    desk.start()
    yield desk
    await desk.saver.aclose(clean=False)


async def test_a_worker_that_ends_with_the_router_is_not_written(desk: Desk) -> None:
    desk.saver.leave_out("http://a:1")
    for url in ("http://a:1", "http://b:1"):
        desk.fleet.apply(WorkerRegistered(WorkerUrl.parse(url)))
    desk.saver.leave_out("http://c:1")
    desk.fleet.apply(WorkerRegistered(WorkerUrl.parse("http://c:1")))
    desk.fleet.apply(RemovalRequested(WorkerId("http://c:1"), force=True))
    desk.fleet.apply(WorkerRegistered(WorkerUrl.parse("http://c:1")))  # by somebody else, this time
    assert [worker.url for worker in (await desk.written()).workers] == ["http://b:1", "http://c:1"]


async def test_a_worker_is_written_with_what_was_decided_about_it(desk: Desk) -> None:
    worker = desk.fleet.join("http://a:1")
    assert (await desk.written()).workers == (A,)
    desk.fleet.apply(LabelsSet(worker.worker_id, (("group", "g"), ("rack", "7"))))
    desk.fleet.apply(MaxConcurrencySet(worker.worker_id, 0))
    desk.fleet.apply(QuarantineRequested(worker.worker_id))
    desk.fleet.apply(HoldRequested(worker.worker_id))
    expected = SavedWorker(1, "http://a:1", (("group", "g"), ("rack", "7")), 0, quarantined=True, held=True)
    assert (await desk.written()).workers == (expected,)
    desk.fleet.apply(QuarantineLifted(worker.worker_id))
    desk.fleet.apply(WakeRequested(worker.worker_id))
    assert (await desk.written()).workers == (replace(expected, quarantined=False, held=False),)


async def test_a_worker_that_probes_have_quarantined_is_not_written_as_such(desk: Desk) -> None:
    worker = desk.fleet.join("http://a:1")
    for _ in range(5):
        desk.fleet.apply(ProbeFailed(worker.worker_id, worker.incarnation, ProbeFailure.REFUSED))
    assert worker.status.value == "quarantined"
    assert (await desk.written()).workers == (A,)


async def test_what_changes_nothing_that_is_kept_writes_nothing(desk: Desk) -> None:
    worker = desk.fleet.join("http://a:1")
    assert desk.store is not None
    assert await desk.saver.flush()
    put = desk.store._put
    desk.fleet.apply(WorkerRegistered(WorkerUrl.parse("http://a:1")))
    desk.fleet.apply(ProbeFailed(worker.worker_id, worker.incarnation, ProbeFailure.TIMED_OUT))
    assert desk.store._put == put


async def test_a_sleeper_is_asleep_from_the_order_until_it_is_awake_again(desk: Desk) -> None:
    fleet, worker = desk.fleet, desk.fleet.join("http://a:1")
    lease = fleet.acquire(WorkSpec(route="x"), waiter=None)  # type: ignore[arg-type]
    assert isinstance(lease, Lease)
    asleep = (replace(A, asleep=True),)

    async def seen() -> tuple[str, bool]:
        return worker.state.value, (await desk.written()).workers == asleep

    fleet.ask(SleepRequested(worker.worker_id))
    found = [await seen()]
    fleet.release(lease, Result.OK, 200)
    found.append(await seen())
    fleet.apply(CommandSucceeded(worker.worker_id, worker.command_id or 0))
    found.append(await seen())
    fleet.ask(WakeRequested(worker.worker_id))
    found.append(await seen())
    fleet.apply(CommandSucceeded(worker.worker_id, worker.command_id or 0))
    assert [state for state, _ in found] == ["draining", "releasing", "sleeping", "resuming"]
    assert all(is_asleep for _, is_asleep in found)
    assert (await desk.written()).workers == (A,)


async def test_a_worker_that_joins_a_sleeping_fleet_is_asleep(desk: Desk) -> None:
    fleet, worker = desk.fleet, desk.fleet.join("http://a:1")
    fleet.ask(SleepRequested(worker.worker_id))
    fleet.apply(CommandLost(worker.worker_id, worker.command_id or 0, "no answer"))
    fleet.apply(WorkerRegistered(WorkerUrl.parse("http://b:1")))
    assert (await desk.written()).workers == (
        replace(A, asleep=True),
        SavedWorker(2, "http://b:1", asleep=True),
    )


async def test_a_worker_that_drains_for_its_removal_is_not_there_again_unless_that_is_called_off(desk: Desk) -> None:
    fleet, worker = desk.fleet, desk.fleet.join("http://a:1")
    lease = fleet.acquire(WorkSpec(route="x"), waiter=None)  # type: ignore[arg-type]
    assert isinstance(lease, Lease)
    desk.saver.note_job("video", "1", worker, running=True)
    fleet.apply(RemovalRequested(worker.worker_id))
    assert (await desk.written()).workers == ()
    fleet.apply(WorkerRegistered(WorkerUrl.parse("http://a:1")))
    saved = await desk.written()
    assert (saved.workers, saved.jobs[0].registration) == ((A,), 1)
    fleet.apply(RemovalRequested(worker.worker_id))
    fleet.release(lease, Result.OK, 200)
    assert (await desk.written()).workers == ()


async def test_a_worker_of_the_same_url_that_comes_later_is_another_one(desk: Desk) -> None:
    fleet, worker = desk.fleet, desk.fleet.join("http://a:1")
    desk.saver.note_job("video", "1", worker, running=False)
    fleet.apply(RemovalRequested(worker.worker_id))
    desk.saver.note_job("video", "2", worker, running=False)
    fleet.join("http://a:1")
    saved = await desk.written()
    assert saved.workers == (replace(A, registration=2),)
    assert {job.job_id: job.registration for job in saved.jobs} == {"1": 1, "2": 0}


async def test_a_job_is_written_with_its_time_and_whether_it_runs(desk: Desk) -> None:
    worker = desk.fleet.join("http://a:1")
    began_s = time.time()
    desk.saver.note_job("video", "1", worker, running=True)
    (job,) = (await desk.written()).jobs
    assert job == SavedJob("video", "1", "http://a:1", 1, job.expires_unix_s, running=True)
    assert began_s + 1000 <= job.expires_unix_s <= time.time() + 1000
    desk.saver.note_job("video", "1", worker, running=False)
    assert [job.running for job in (await desk.written()).jobs] == [False]


async def test_restored_workers_keep_their_numbers_and_with_them_their_jobs(tmp_path: Path) -> None:
    one, two = Desk(tmp_path / "state.db"), Desk(tmp_path / "state.db")
    one.attach()
    one.start()
    a, b = one.fleet.join("http://a:1"), one.fleet.join("http://b:1")
    one.saver.note_job("video", "1", b, running=True)
    one.fleet.apply(RemovalRequested(a.worker_id))
    await one.saver.aclose(clean=False)

    saved = two.attach()
    for worker in saved.workers:
        two.fleet.apply(WorkerRestored(WorkerUrl.parse(worker.url)))
    two.start()
    two.fleet.join("http://c:1")
    found = await two.written()
    assert found.workers == (SavedWorker(2, "http://b:1"), SavedWorker(3, "http://c:1"))
    assert [job.registration for job in found.jobs] == [2]
    await two.saver.aclose(clean=False)


async def test_a_worker_that_could_not_be_restored_is_dropped(tmp_path: Path) -> None:
    one, two = Desk(tmp_path / "state.db"), Desk(tmp_path / "state.db")
    one.attach()
    one.start()
    one.fleet.join("http://a:1")
    await one.saver.aclose(clean=False)
    two.attach()
    two.start()
    two.fleet.join("http://a:1")
    assert (await two.written()).workers == (replace(A, registration=2),)
    await two.saver.aclose(clean=False)


async def test_a_group_is_written_when_it_has_changed(desk: Desk) -> None:
    group = Group("v1", 1, {"v1": 1})
    desk.fleet.apply(LedgerRestored({"g": group}))
    assert (await desk.written()).groups == {"g": replace(group, unproven=True)}
    assert desk.store is not None
    assert await desk.saver.flush()
    put = desk.store._put
    desk.fleet.tick()
    assert desk.store._put == put


async def test_a_refit_is_written(desk: Desk) -> None:
    refit = SavedRefit("refit-1", "{}", frozenset({"g"}), "v1", Mode.DRAIN, is_open=True)
    desk.saver.put_refit(refit)
    assert (await desk.written()).refits == (refit,)


async def test_without_a_store_nothing_is_kept_and_nobody_waits() -> None:
    fleet = RecordingFleet()
    worker: Worker = fleet.join("http://a:1")
    saver = Saver(job_ttl_s=10.0)
    saver.note(worker)
    saver.note_job("video", "1", worker, running=True)
    saver.note_ledger(fleet.pool.ledger)
    saver.put_refit(SavedRefit("r", "{}", frozenset(), "v", Mode.DRAIN, is_open=False))
    saver.start()
    assert (saver.is_durable, saver.unsaved, saver.failures, await saver.flush()) == (False, 0, 0, True)
    await saver.aclose(clean=True)
