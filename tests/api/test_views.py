import pytest

from sglang_diffusion_routing.api.views import BATCH, view, view_all, view_queue
from sglang_diffusion_routing.core.events import (
    CapabilityLearned,
    CommandSucceeded,
    HoldRequested,
    LabelsSet,
    MaxConcurrencySet,
    ProbeSucceeded,
    QuarantineRequested,
    SleepRequested,
    WorkerDied,
    WorkerRegistered,
    WorkerRestarted,
)
from sglang_diffusion_routing.core.work import Lease, Needs, Result, Ticket, WorkSpec
from sglang_diffusion_routing.core.worker import Capability, WorkerId, WorkerUrl
from sglang_diffusion_routing.schemas import LaunchedView
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
        "reason": "",
        "state": "active",
        "health": "healthy",
        "weight_version": "0",
        "jobs": 1,
        "queued": 1,
        "task_types": ["T2V", "T2I"],
        "model": "m",
        "max_concurrency": 4,
        "ramp": None,
        "speed": None,
        "speed_confidence": 0.0,
        "labels": {"group": "a"},
        "launcher": None,
    }


async def test_a_worker_that_the_router_has_started_shows_its_slot() -> None:
    fleet = RecordingFleet()
    worker = fleet.join("http://gpu-1:30000")
    slot = LaunchedView(slot=3, phase="ready", restarts=1, pid=77, log="/logs/3")
    assert view(worker, fleet.scheduler, slot).launcher == slot
    (shown,) = await view_all([worker], fleet.scheduler, {"http://gpu-1:30000": slot, "http://gpu-2:30000": slot})
    assert shown.launcher == slot


async def test_a_worker_shows_its_state_and_its_health() -> None:
    fleet = RecordingFleet()
    worker = fleet.join("http://a:1")
    fleet.apply(SleepRequested(worker.worker_id))
    assert view(worker, fleet.scheduler).state == "releasing"
    fleet.apply(QuarantineRequested(worker.worker_id))
    shown = view(worker, fleet.scheduler)
    assert (shown.is_dead, shown.health, shown.status, shown.state) == (True, "quarantined", "quarantined", "releasing")


async def test_a_worker_says_why_it_gets_no_work() -> None:
    fleet = RecordingFleet()
    parsed = WorkerUrl.parse("http://a:1")
    fleet.apply(WorkerRegistered(parsed))
    worker = fleet.pool.workers[WorkerId(str(parsed))]

    def why() -> str:
        return view(worker, fleet.scheduler).reason

    assert why() == "it has not answered a probe yet"
    fleet.join("http://a:1")
    lease = fleet.acquire(WorkSpec(), Client())
    assert isinstance(lease, Lease)
    for asked, said in (
        (HoldRequested(worker.worker_id), "an operator holds it"),
        (SleepRequested(worker.worker_id), "it is put to sleep once its work has ended"),
    ):
        fleet.apply(asked)
        assert why() == said
    fleet.release(lease, Result.OK, 200)
    assert why() == "it is being put to sleep"
    assert worker.command_id is not None
    fleet.apply(CommandSucceeded(worker.worker_id, worker.command_id))
    assert why() == "it sleeps"
    fleet.apply(QuarantineRequested(worker.worker_id))
    assert why() == "an operator has quarantined it"


async def test_a_worker_whose_weights_are_looked_at_says_so() -> None:
    fleet = RecordingFleet()
    worker, _ = fleet.join("http://a:1"), fleet.join("http://b:1")
    fleet.apply(WorkerRestarted(worker.worker_id, worker.incarnation))
    fleet.apply(CapabilityLearned(worker.worker_id, worker.incarnation, Capability(("T2I",), ("m",), learned=True)))
    fleet.apply(ProbeSucceeded(worker.worker_id, worker.incarnation))
    shown = view(worker, fleet.scheduler)
    assert (shown.status, shown.reason) == ("updating", "it is compared with what its peers started with")
    fleet.apply(WorkerDied(worker.worker_id, worker.incarnation, "it died"))
    shown = view(worker, fleet.scheduler)
    assert (shown.status, shown.reason) == ("quarantined", "it failed, and is back when a probe succeeds")


async def test_all_are_shown_in_order_however_many() -> None:
    fleet = RecordingFleet()
    urls = [f"http://w:{n}" for n in range(1000, 1000 + 2 * BATCH + 1)]
    for url in urls:
        fleet.join(url)
    assert [shown.url for shown in await view_all(fleet.pool.workers.values(), fleet.scheduler, {})] == urls


async def test_the_queue_shows_what_waits_and_for_how_long() -> None:
    fleet = RecordingFleet()
    fleet.join("http://gpu-1:30000", "T2I")
    fleet.scheduler.pause()
    tickets = [
        fleet.scheduler.acquire(WorkSpec(size_bytes=size, tenant=tenant), Client(), now_s)
        for size, tenant, now_s in ((3, "", 10.0), (4, "alice", 12.0), (5, "alice", 13.0))
    ]
    shown = view_queue(fleet.scheduler, 15.0).model_dump()
    assert shown == {
        "requests": 3,
        "bytes": 12,
        "oldest_seconds": 5.0,
        "tenants": [
            {"tenant": "alice", "requests": 2, "bytes": 9, "weight": 1.0},
            {"tenant": "", "requests": 1, "bytes": 3, "weight": 1.0},
        ],
    }
    for ticket in tickets:
        assert isinstance(ticket, Ticket)
        fleet.abandon(ticket)
    empty = {"requests": 0, "bytes": 0, "oldest_seconds": None, "tenants": []}
    assert view_queue(fleet.scheduler, 15.0).model_dump() == empty
