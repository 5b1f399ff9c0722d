import structlog

from sglang_diffusion_routing.core.events import ProbeFailed, ProbeSucceeded, RemovalRequested
from sglang_diffusion_routing.core.health import ProbeFailure
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
