import pytest

from sglang_diffusion_routing.api.views import BATCH, view, view_all
from sglang_diffusion_routing.core.events import LabelsSet, MaxConcurrencySet, QuarantineRequested, SleepRequested
from sglang_diffusion_routing.core.work import Lease, Needs, WorkSpec
from support.fleet import RecordingFleet

pytestmark = pytest.mark.core


class Client:
    def granted(self, lease: Lease) -> None: ...
    def refused(self, error: Exception) -> None: ...


async def test_a_worker_shows_its_work() -> None:
    fleet = RecordingFleet()
    worker = fleet.join("http://gpu-1:30000", "T2V", "T2I")
    for spec in (WorkSpec(needs=Needs.VIDEO, creates_job=True), WorkSpec()):
        assert isinstance(fleet.acquire(spec, Client()), Lease)
    fleet.apply(LabelsSet(worker.worker_id, (("group", "a"),)))
    fleet.apply(MaxConcurrencySet(worker.worker_id, 4))
    assert view(worker, fleet.scheduler).model_dump() == {
        "worker_id": "http://gpu-1:30000",
        "display_id": "gpu-1:30000",
        "id": "http://gpu-1:30000",
        "url": "http://gpu-1:30000",
        "active_requests": 2,
        "is_dead": False,
        "is_sleeping": False,
        "consecutive_failures": 0,
        "video_support": True,
        "status": "active",
        "state": "active",
        "health": "healthy",
        "weight_version": "0",
        "jobs": 1,
        "queued": 1,
        "task_types": ["T2V", "T2I"],
        "model": "m",
        "max_concurrency": 4,
        "speed": None,
        "labels": {"group": "a"},
    }


async def test_a_worker_shows_its_state_and_its_health() -> None:
    fleet = RecordingFleet()
    worker = fleet.join("http://a:1")
    fleet.apply(SleepRequested(worker.worker_id))
    assert view(worker, fleet.scheduler).state == "releasing"
    fleet.apply(QuarantineRequested(worker.worker_id))
    shown = view(worker, fleet.scheduler)
    assert (shown.is_dead, shown.health, shown.status, shown.state) == (True, "quarantined", "quarantined", "releasing")


async def test_all_are_shown_in_order_however_many() -> None:
    fleet = RecordingFleet()
    urls = [f"http://w:{n}" for n in range(1000, 1000 + 2 * BATCH + 1)]
    for url in urls:
        fleet.join(url)
    assert [shown.url for shown in await view_all(fleet.pool.workers.values(), fleet.scheduler)] == urls
