"""A fresh fleet knows what the one before knew."""

import time

import pytest
from structlog.testing import capture_logs

from sglang_diffusion_routing.app.restore import RunningJob, restore, summary
from sglang_diffusion_routing.core.affinity import Gone, Pinned, Unknown
from sglang_diffusion_routing.core.refit import Mode, StepKind, step_of
from sglang_diffusion_routing.core.weights import Group, OpenRefit, Unversioned
from sglang_diffusion_routing.core.worker import WorkerId
from sglang_diffusion_routing.store import Saved, SavedJob, SavedRefit, SavedWorker
from support.fleet import RecordingFleet

TTL_S = 1000.0
STEP = step_of(StepKind.DISK, "v2", "/update_weights_from_disk", (), b"{}")


def job(job_id: str, registration: int, *, running: bool = False, in_s: float = 500.0) -> SavedJob:
    return SavedJob("video", job_id, f"http://w{registration}:1", registration, time.time() + in_s, running)


def refit(refit_id: str, *, is_open: bool) -> SavedRefit:
    return SavedRefit(refit_id, "{}", frozenset({"g"}), "v2", Mode.DRAIN, is_open, STEP)


async def test_workers_come_back_in_their_order_unchecked_and_as_they_were_left() -> None:
    fleet = RecordingFleet()
    saved = Saved(
        workers=(
            SavedWorker(3, "http://c:1", (("group", "g"),), 4),
            SavedWorker(5, "http://a:1", quarantined=True),
            SavedWorker(6, "http://b:1", asleep=True),
            SavedWorker(9, "http://d:1", held=True),
        )
    )
    assert restore(fleet, saved, TTL_S) == []
    workers = list(fleet.pool.workers.values())
    assert [(w.worker_id, w.status.value, w.loaded) for w in workers] == [
        ("http://c:1", "joining", Unversioned.UNCHECKED),
        ("http://a:1", "quarantined", Unversioned.UNCHECKED),
        ("http://b:1", "sleeping", Unversioned.UNCHECKED),
        ("http://d:1", "draining", Unversioned.UNCHECKED),
    ]
    assert (workers[0].labels, workers[0].max_concurrency) == ((("group", "g"),), 4)
    assert not any(fleet.pool.is_routable(worker) for worker in workers)


async def test_targets_are_unproven_and_only_a_refit_that_somebody_knows_fences_its_group() -> None:
    fleet = RecordingFleet()
    opened = {name: OpenRefit(f"refit-{name}", "v2", Mode.DRAIN, STEP) for name in ("known", "over", "lost")}
    saved = Saved(
        groups={name: Group("v1", 1, {"v1": 1}, open=refit) for name, refit in opened.items()},
        refits=(refit("refit-known", is_open=True), refit("refit-over", is_open=False)),
    )
    restore(fleet, saved, TTL_S)
    groups = fleet.pool.ledger.groups
    assert {name: (group.target, group.unproven, group.open) for name, group in groups.items()} == {
        "known": ("v1", True, opened["known"]),
        "over": ("v1", True, None),
        "lost": ("v1", True, None),
    }


async def test_a_job_belongs_to_its_worker_of_then_or_says_that_it_is_gone() -> None:
    fleet = RecordingFleet()
    saved = Saved(
        workers=(SavedWorker(2, "http://w2:1"),),
        jobs=(job("here", 2), job("gone", 1), job("long gone", 0), job("late", 2, in_s=900.0)),
    )
    restore(fleet, saved, TTL_S)
    pinned = Pinned(WorkerId("http://w2:1"), fleet.pool.workers[WorkerId("http://w2:1")].incarnation)
    now_s = fleet.now_s()

    def owners(at_s: float) -> list[object]:
        return [fleet.affinity.owner("video", name, at_s) for name in ("here", "gone", "long gone", "late")]

    assert owners(now_s + 499) == [pinned, Gone("http://w1:1"), Gone("http://w0:1"), pinned]
    assert owners(now_s + 501) == [Unknown(), Unknown(), Unknown(), pinned]


async def test_no_job_is_remembered_longer_than_the_settings_say_now() -> None:
    fleet = RecordingFleet()
    restore(fleet, Saved(jobs=(job("1", 0, in_s=5000.0),)), TTL_S)
    now_s = fleet.now_s()
    assert fleet.affinity.owner("video", "1", now_s + TTL_S - 1) == Gone("http://w0:1")
    assert fleet.affinity.owner("video", "1", now_s + TTL_S) == Unknown()


async def test_jobs_that_ran_on_a_worker_that_is_there_are_to_be_followed() -> None:
    fleet = RecordingFleet()
    saved = Saved(
        workers=(SavedWorker(2, "http://w2:1"),),
        jobs=(job("a", 2, running=True), job("b", 2), job("c", 1, running=True)),
    )
    running = restore(fleet, saved, TTL_S)
    assert running == [RunningJob("video", "a", fleet.pool.workers[WorkerId("http://w2:1")])]


async def test_a_worker_that_may_not_be_one_any_more_is_left_out_and_told() -> None:
    fleet = RecordingFleet()
    with capture_logs() as logs:
        restore(fleet, Saved(workers=(SavedWorker(1, "gopher://a"), SavedWorker(2, "http://b:1"))), TTL_S)
    assert list(fleet.pool.workers) == ["http://b:1"]
    assert [entry["worker"] for entry in logs if entry["event"] == "worker_not_restored"] == ["gopher://a"]


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        (Saved(workers=(SavedWorker(1, "http://a"),)), "1 worker, 0 weight targets and 0 jobs"),
        (
            Saved(
                workers=(
                    SavedWorker(1, "http://a", asleep=True),
                    SavedWorker(2, "http://b", asleep=True, quarantined=True),
                    SavedWorker(3, "http://c", held=True),
                ),
                groups={"g": Group("v1", 1), "h": Group()},
                refits=(refit("1", is_open=False), refit("2", is_open=True)),
                jobs=(job("1", 1), job("2", 2)),
            ),
            "3 workers (2 asleep, 1 quarantined, 1 drained), 1 weight target, 2 jobs and 1 unfinished refit",
        ),
    ],
)
def test_what_is_restored_is_said_in_half_a_sentence(saved: Saved, words: str) -> None:
    assert summary(saved) == words
