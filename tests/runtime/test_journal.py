import structlog

from sglang_diffusion_routing.core.events import (
    CommandSucceeded,
    HoldRequested,
    ProbeFailed,
    ProbeSucceeded,
    QuarantineLifted,
    QuarantineRequested,
    RefitOpened,
    RefitRequested,
    RemovalRequested,
)
from sglang_diffusion_routing.core.health import ProbeFailure
from sglang_diffusion_routing.core.refit import Mode, Step, StepKind
from sglang_diffusion_routing.core.worker import WorkerStatus
from support.fleet import RecordingFleet


async def test_each_change_of_status_is_one_line() -> None:
    fleet = RecordingFleet()
    with structlog.testing.capture_logs() as lines:
        worker = fleet.join("http://a:1")
        key, incarnation = worker.worker_id, worker.incarnation
        fleet.apply(ProbeSucceeded(key, incarnation))
        for _ in range(4):
            fleet.apply(ProbeFailed(key, incarnation, ProbeFailure.BAD_ANSWER))
        fleet.apply(RemovalRequested(key, force=True))
    changes = [(line["worker"], line["before"], line["now"]) for line in lines if line["event"] == "worker_status"]
    assert changes == [
        ("http://a:1", None, "joining"),
        ("http://a:1", "joining", "active"),
        ("http://a:1", "active", "quarantined"),
        ("http://a:1", "quarantined", "removed"),
    ]


async def test_a_worker_that_comes_back_is_new() -> None:
    fleet = RecordingFleet()
    fleet.apply(RemovalRequested(fleet.join("http://a:1").worker_id))
    with structlog.testing.capture_logs() as lines:
        fleet.join("http://a:1")
    assert [line["before"] for line in lines] == [None, "joining"]


async def test_the_steps_of_a_fleets_refit_are_no_news_and_its_end_is() -> None:
    fleet = RecordingFleet()
    worker = fleet.join("http://a:1")
    with structlog.testing.capture_logs() as lines:
        step = Step(StepKind.DISK, "v1", "/update_weights_from_disk")
        fleet.apply(RefitOpened(frozenset({"m"}), "r", "v1", Mode.DRAIN, step))
        fleet.apply(RefitRequested(worker.worker_id, "r", "v1"))
        assert worker.command_id is not None
        fleet.apply(CommandSucceeded(worker.worker_id, worker.command_id))
    assert [(line["log_level"], line["before"], line["now"]) for line in lines] == [
        ("debug", "active", "stale"),
        ("debug", "stale", "draining"),
        ("debug", "draining", "updating"),
        ("info", "updating", "active"),
    ]


async def test_changes_are_counted_by_what_became() -> None:
    fleet = RecordingFleet()
    worker = fleet.join("http://a:1")
    fleet.join("http://b:1")
    for event in (QuarantineRequested, QuarantineLifted, QuarantineRequested):
        fleet.apply(event(worker.worker_id))
    assert {status.value: number for status, number in fleet.journal.changes.items()} == {
        "joining": 3,
        "active": 2,
        "quarantined": 2,
    }
    assert fleet.journal.quarantines == 2


async def test_a_worker_that_is_unwell_while_it_drains_counts_as_quarantined_once() -> None:
    fleet = RecordingFleet()
    worker = fleet.join("http://a:1")
    fleet.apply(HoldRequested(worker.worker_id))
    for _ in range(9):
        fleet.apply(ProbeFailed(worker.worker_id, worker.incarnation, ProbeFailure.REFUSED))
    assert worker.status is WorkerStatus.DRAINING
    assert fleet.journal.quarantines == 1


async def test_one_that_was_removed_unwell_and_comes_back_unwell_counts_twice() -> None:
    fleet = RecordingFleet()
    for _ in range(2):
        worker = fleet.join("http://a:1")
        fleet.apply(QuarantineRequested(worker.worker_id))
        fleet.apply(RemovalRequested(worker.worker_id, force=True))
    assert fleet.journal.quarantines == 2
