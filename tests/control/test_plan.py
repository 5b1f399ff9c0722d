import pytest

from sglang_diffusion_routing.control.parameters import Pace
from sglang_diffusion_routing.control.plan import groups_of, sort_out
from sglang_diffusion_routing.core.events import (
    HoldRequested,
    LabelsSet,
    QuarantineRequested,
    RefitOpened,
    RefitRequested,
    SleepRequested,
    WorkerRegistered,
)
from sglang_diffusion_routing.core.refit import Mode, StepKind
from sglang_diffusion_routing.core.worker import WorkerId, WorkerUrl
from support.engines import restart
from support.fleet import RecordingFleet
from support.refits import refit, refit_world

pytestmark = pytest.mark.core


async def test_a_plan_says_that_it_has_begun_and_what_each_worker_is_asked_for() -> None:
    wanted = refit(mode=Mode.ROLLING, at_once=3, admit_new=True, drain_limit_s=7.0, content=b'{"target_modules":["t"]}')
    plan = wanted.plan("refit-1", "v1", frozenset({"g"}))
    worker = RecordingFleet().join("http://a:1")
    assert (plan.step.kind, plan.step.target, plan.step.body) == (
        StepKind.DISK,
        "/update_weights_from_disk",
        b'{"target_modules":["t"]}',
    )
    assert (plan.step.headers, plan.step.modules) == ((("content-type", "application/json"),), frozenset({"t"}))
    assert plan.opened() == RefitOpened(frozenset({"g"}), "refit-1", "v1", Mode.ROLLING, plan.step, admit_new=True)
    assert plan.asked_of(worker) == RefitRequested(worker.worker_id, "refit-1", "v1", drain_limit_s=7.0)
    assert plan.pace == Pace(Mode.ROLLING, 3, admit_new=True)


async def test_only_an_immediate_one_asks_for_it_at_once() -> None:
    worker = RecordingFleet().join("http://a:1")
    asked = [refit(mode=mode).plan("r", "v", frozenset()).asked_of(worker).immediate for mode in Mode]
    assert dict(zip(Mode, asked, strict=True)) == {Mode.DRAIN: False, Mode.ROLLING: False, Mode.IMMEDIATE: True}


def test_tensors_are_not_kept() -> None:
    assert refit(kind=StepKind.TENSOR, content=b"x" * 100).plan("r", "v", frozenset()).step.body == b""


def test_the_route_is_the_path() -> None:
    assert refit().route == "/update_weights_from_disk"


async def test_whoever_cannot_be_refit_is_left_out_with_the_reason() -> None:
    fleet = RecordingFleet()
    good, held, asleep, sick, moved = (fleet.join(f"http://{name}:1") for name in ("a", "b", "c", "d", "e"))
    fleet.apply(HoldRequested(held.worker_id))
    fleet.apply(SleepRequested(asleep.worker_id))
    fleet.apply(QuarantineRequested(sick.worker_id))
    fleet.apply(LabelsSet(moved.worker_id, (("group", "other"),)))
    fleet.apply(WorkerRegistered(WorkerUrl.parse("http://new:1")))
    new = fleet.pool.workers[WorkerId("http://new:1")]
    eligible, skips = sort_out(list(fleet.pool.workers.values()), frozenset({"m"}))
    assert eligible == [good]
    assert [(row.worker_url, row.reason) for row in skips] == [
        (held.worker_id, "draining"),
        (asleep.worker_id, "releasing"),
        (sick.worker_id, "quarantined"),
        (moved.worker_id, "its weight group has changed"),
        (new.worker_id, "it has not said yet what it serves, so its weight group is not known"),
    ]
    assert groups_of(list(fleet.pool.workers.values())) == {"m", "other"}


async def test_what_the_router_does_to_a_worker_by_itself_gives_way() -> None:
    async with refit_world("a", "b") as world:
        world.occupy("b")
        restarted = world.worker("b")
        restart(world.fleet, restarted)
        assert restarted.order is not None
        assert restarted.order.resync
        eligible, skips = sort_out(world.everybody(), frozenset({"m"}))
        assert (eligible, skips) == ([world.worker("a"), restarted], [])
