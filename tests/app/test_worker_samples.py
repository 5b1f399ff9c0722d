"""What a scrape tells of each worker."""

from sglang_diffusion_routing import metrics as m
from sglang_diffusion_routing.app.worker_samples import of_each
from sglang_diffusion_routing.core.events import ProbeFailed, QuarantineRequested, WorkerRegistered
from sglang_diffusion_routing.core.health import ProbeFailure
from sglang_diffusion_routing.core.work import Result, WorkSpec
from sglang_diffusion_routing.core.worker import WorkerId, WorkerUrl
from support.fleet import RecordingFleet

A, B, C = (WorkerId(f"http://{name}:1") for name in "abc")
SPEC = WorkSpec(route="rollout", cost_mpx_steps=8.0, cost_known=True)


async def test_each_worker_is_told_of_in_its_turn() -> None:
    fleet = RecordingFleet()
    well, unwell = fleet.join(A), fleet.join(B)
    fleet.apply(WorkerRegistered(WorkerUrl("http", "c", 1)))
    lease = fleet.adopt(well, SPEC)
    fleet.adopt(well, SPEC)
    fleet.instant_s += 2
    fleet.release(lease, Result.OK, 200)
    fleet.release(fleet.adopt(well, SPEC), Result.DIED)
    fleet.apply(QuarantineRequested(unwell.worker_id))
    fleet.apply(ProbeFailed(A, well.incarnation, ProbeFailure.TIMED_OUT))
    assert of_each(fleet, fleet.pool.workers.values()) == {
        m.WORKER_IN_FLIGHT: [((A,), 1), ((B,), 0), ((C,), 0)],
        m.WORKER_SPEED: [((A,), 4.0)],
        m.WORKER_ROUTABLE: [((A,), True), ((B,), False), ((C,), False)],
        m.WORKER_STATUS: [((A, "active"), 1), ((B, "quarantined"), 1), ((C, "joining"), 1)],
        m.WORKER_HEALTH: [((A, "healthy"), 1), ((B, "quarantined"), 1), ((C, "unknown"), 1)],
        m.WORKER_FAILED_CHECKS: [((A,), 1), ((B,), 0), ((C,), 0)],
        m.WORKER_WEIGHTS: [((A, "0"), 1), ((B, "0"), 1), ((C, "0"), 1)],
        m.WORKER_REQUESTS: [((A, "rollout", "ok"), 1), ((A, "rollout", "died"), 1)],
    }


async def test_nothing_is_told_of_nobody() -> None:
    assert not any(of_each(RecordingFleet(), ()).values())
