"""Wait, a lease, or a refusal."""

import pytest
from hypothesis import settings

from core.fleet import T2I, T2V, Asker, Fleet, worker_id
from core.machine import FleetMachine
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.health import ProbeFailure
from sglang_diffusion_routing.core.limits import QueueLimits, SchedulerLimits
from sglang_diffusion_routing.core.policies import POLICIES
from sglang_diffusion_routing.core.refit import Mode, Step, StepKind
from sglang_diffusion_routing.core.state import WorkerState
from sglang_diffusion_routing.core.work import Needs, Result, WorkSpec
from sglang_diffusion_routing.core.worker import Capability
from sglang_diffusion_routing.errors import (
    NoCapableWorker,
    NoRoutableWorker,
    QueueFull,
    QueueTimeout,
    RouterError,
    UnknownWorker,
    WorkerUnavailable,
)

pytestmark = pytest.mark.core

A, B = worker_id("a"), worker_id("b")
IMAGE, VIDEO, JOB = WorkSpec(Needs.IMAGE), WorkSpec(Needs.VIDEO), WorkSpec(creates_job=True)
GET = WorkSpec(skips_queue=True)


def avoiding(*names: str) -> WorkSpec:
    return WorkSpec(avoid=frozenset(worker_id(name) for name in names))


def refusal(asker: Asker) -> tuple[type[RouterError], object]:
    assert asker.error is not None
    return type(asker.error), asker.error.facts.get("by_status", asker.error.facts.get("output"))


def put_to_sleep(fleet: Fleet, name: str) -> None:
    fleet.apply(ev.SleepRequested(worker_id(name)))
    fleet.apply(ev.CommandSucceeded(worker_id(name), fleet.worker(name).command_id or 0))


# Leases


def test_a_lease_says_who_what_and_when() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    fleet.now_s = 5.0
    lease = fleet.ask(IMAGE).lease
    assert lease is not None
    assert (lease.worker, lease.spec, lease.granted_s, lease.queued_s, lease.live) == (worker, IMAGE, 5.0, 0.0, True)
    assert fleet.scheduler.leases_of(A) == [lease]
    assert (fleet.scheduler.in_flight(A), fleet.scheduler.live_leases) == (1, 1)


def test_a_lease_ends_exactly_once() -> None:
    fleet = Fleet()
    fleet.add("a")
    asker = fleet.ask()
    fleet.end(asker)
    assert (fleet.scheduler.in_flight(A), fleet.scheduler.live_leases, fleet.scheduler.leases_of(A)) == (0, 0, [])
    with pytest.raises(AssertionError, match="lease 1 on http://a:30000 has ended before"):
        fleet.end(asker)


def test_work_waits_while_every_worker_has_its_cap_and_goes_in_order() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=2))
    fleet.add("a")
    running = [fleet.ask(), fleet.ask()]
    waiting = [fleet.ask(), fleet.ask()]
    assert [asker.waits for asker in waiting] == [True, True]
    assert (fleet.scheduler.queued, fleet.scheduler.in_flight(A)) == (2, 2)
    fleet.now_s = 7.5
    fleet.end(running[0])
    assert [asker.waits for asker in waiting] == [False, True]
    assert waiting[0].lease is not None
    assert (waiting[0].lease.granted_s, waiting[0].lease.queued_s) == (7.5, 7.5)


def test_a_cap_of_0_is_none() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=0))
    fleet.add("a")
    assert [fleet.ask().got for _ in range(50)] == ["a"] * 50


def test_a_worker_may_have_a_cap_of_its_own() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=2))
    fleet.add("a", max_concurrency=1)
    fleet.add("b")
    assert sorted(asker.got for asker in [fleet.ask() for _ in range(3)]) == ["a", "b", "b"]
    waiting = fleet.ask()
    fleet.apply(ev.MaxConcurrencySet(A, 2))
    assert waiting.got == "a"


def test_a_lower_cap_lets_what_runs_go_on() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=2))
    fleet.add("a")
    running = [fleet.ask(), fleet.ask()]
    fleet.apply(ev.MaxConcurrencySet(A, 1))
    waiting = fleet.ask()
    fleet.end(running[0])
    assert waiting.waits
    fleet.end(running[1])
    assert waiting.got == "a"


# Who gets what


def test_work_goes_only_to_workers_that_make_it() -> None:
    fleet = Fleet()
    fleet.add("a", T2I)
    fleet.add("b", T2V)
    assert [fleet.ask(spec).got for spec in (IMAGE, VIDEO, IMAGE, VIDEO)] == ["a", "b", "a", "b"]
    assert fleet.ask(IMAGE).waits


def test_a_worker_whose_tasks_are_unknown_takes_images_and_rollouts_and_no_video() -> None:
    fleet = Fleet()
    fleet.add("a", Capability(learned=True))
    assert [fleet.ask(IMAGE).got, fleet.ask().got] == ["a", "a"]
    assert refusal(fleet.ask(VIDEO)) == (NoCapableWorker, "video")


def test_a_request_at_the_head_of_the_queue_holds_up_nobody_who_needs_another_worker() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    fleet.add("a", T2I)
    fleet.add("b", T2V)
    fleet.ask(IMAGE)
    assert fleet.ask(IMAGE).waits
    assert fleet.ask(VIDEO).got == "b"


def test_of_two_that_a_free_worker_could_serve_the_one_that_came_first_is_served() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    fleet.add("a", T2I)
    fleet.add("b", T2V)
    running = [fleet.ask(IMAGE), fleet.ask(VIDEO)]
    first, second, third = fleet.ask(VIDEO), fleet.ask(), fleet.ask(VIDEO)
    fleet.end(running[1])
    assert (first.got, second.waits, third.waits) == ("b", True, True)
    fleet.end(running[0])
    assert (second.got, third.waits) == ("a", True)


def test_a_model_restricts_work_to_those_that_serve_it_where_others_do_not() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    fleet.add("a", Capability(("T2I",), ("m",), learned=True))
    fleet.add("b", Capability(("T2I",), ("n",), learned=True))
    assert fleet.scheduler.model_matters
    of_n = [fleet.ask(WorkSpec(model="n")) for _ in range(2)]
    assert (of_n[0].got, of_n[1].waits) == ("b", True)
    assert fleet.ask(WorkSpec(model="neither")).got == "a"


def test_a_model_that_all_serve_or_none_does_not_matter() -> None:
    fleet = Fleet()
    fleet.add("a")
    fleet.add("b")
    assert not fleet.scheduler.model_matters
    assert [fleet.ask(WorkSpec(model=model)).got for model in ("m", "m", "x", "x")] == ["a", "b", "a", "b"]


def test_work_is_not_sent_to_who_has_failed_it() -> None:
    fleet = Fleet()
    fleet.add("a")
    fleet.add("b")
    assert [fleet.ask(avoiding("a")).got, fleet.ask(avoiding("a")).got] == ["b", "b"]
    assert fleet.ask(avoiding("a")).waits
    assert refusal(fleet.ask(avoiding("a", "b"))) == (NoRoutableWorker, {"active": 2})


def test_failed_work_goes_ahead_of_work_that_had_no_turn_and_holds_up_nobody() -> None:
    fleet = Fleet(SchedulerLimits(QueueLimits(max_requests=2), max_concurrency=1))
    fleet.add("a")
    fleet.add("b")
    running = [fleet.ask(), fleet.ask()]
    first, second = fleet.ask(), fleet.ask()
    retry = fleet.ask(avoiding("a"))
    assert retry.waits
    fleet.end(running[0])
    assert (first.got, retry.waits) == ("a", True)
    fleet.end(running[1])
    assert (retry.got, second.waits) == ("b", True)


def test_a_retry_whose_last_other_worker_goes_is_refused() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    fleet.add("a")
    fleet.add("b")
    fleet.ask()
    fleet.ask()
    retry, plain = fleet.ask(avoiding("a")), fleet.ask()
    fleet.apply(ev.HoldRequested(B))
    assert refusal(retry) == (NoRoutableWorker, {"active": 1, "draining": 1})
    assert plain.waits


# Wait or 503


def test_nobody_registered_is_503_and_400_for_video() -> None:
    fleet = Fleet()
    assert [refusal(fleet.ask(spec)) for spec in (IMAGE, WorkSpec(), JOB, GET, VIDEO)] == [
        (NoRoutableWorker, {}),
        (NoRoutableWorker, {}),
        (NoRoutableWorker, {}),
        (NoRoutableWorker, {}),
        (NoCapableWorker, "video"),
    ]


def test_what_no_registered_worker_makes_is_400_however_they_are() -> None:
    fleet = Fleet()
    fleet.add("a", T2V)
    put_to_sleep(fleet, "a")
    assert refusal(fleet.ask(IMAGE)) == (NoCapableWorker, "image")
    assert refusal(fleet.ask(WorkSpec(Needs.IMAGE, skips_queue=True))) == (NoCapableWorker, "image")
    assert refusal(fleet.ask(VIDEO)) == (NoRoutableWorker, {"sleeping": 1})


def test_video_waits_for_a_worker_that_may_yet_prove_to_make_it() -> None:
    fleet = Fleet()
    fleet.add("a", T2I)
    fleet.register("b")
    video = fleet.ask(VIDEO)
    assert video.waits
    fleet.learn("b", T2V)
    assert video.waits
    fleet.answer("b")
    assert video.got == "b"


def test_video_that_waited_for_a_worker_that_proves_to_make_none_is_400() -> None:
    fleet = Fleet()
    fleet.register("a")
    video = fleet.ask(VIDEO)
    fleet.learn("a", T2I)
    assert refusal(video) == (NoCapableWorker, "video")


def test_video_that_waited_for_a_worker_that_leaves_is_503() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    fleet.add("a", T2V)
    fleet.ask(VIDEO)
    video = fleet.ask(VIDEO)
    fleet.apply(ev.RemovalRequested(A, force=True))
    assert refusal(video) == (NoRoutableWorker, {})


def fenced(fleet: Fleet) -> None:
    fleet.ask()
    fleet.apply(ev.RefitRequested(A, "r", "v"))


def updating(fleet: Fleet) -> None:
    fleet.apply(ev.RefitRequested(A, "r", "v"))


def resuming(fleet: Fleet) -> None:
    put_to_sleep(fleet, "a")
    fleet.apply(ev.WakeRequested(A))


def about_to_wake(fleet: Fleet) -> None:
    fleet.apply(ev.SleepRequested(A))
    fleet.apply(ev.WakeRequested(A))


def full(fleet: Fleet) -> None:
    fleet.ask()


def paused(fleet: Fleet) -> None:
    fleet.scheduler.pause()


def paused_without_a_worker(fleet: Fleet) -> None:
    fleet.scheduler.pause()
    fleet.apply(ev.RemovalRequested(A))


@pytest.mark.parametrize(
    "on_its_way", [fenced, updating, resuming, about_to_wake, full, paused, paused_without_a_worker]
)
def test_work_waits_while_a_worker_is_on_its_way(on_its_way: object) -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    fleet.add("a")
    assert callable(on_its_way)
    on_its_way(fleet)
    assert fleet.ask(IMAGE).waits


def test_work_waits_for_a_worker_that_joins_while_another_is_routable() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    fleet.add("a", T2V)
    fleet.register("b")
    image = fleet.ask(IMAGE)
    assert image.waits
    fleet.answer("b")
    assert image.got == "b"


def asleep(fleet: Fleet) -> None:
    put_to_sleep(fleet, "a")


def falling_asleep(fleet: Fleet) -> None:
    fleet.apply(ev.SleepRequested(A))


def draining_for_sleep(fleet: Fleet) -> None:
    fleet.ask()
    fleet.apply(ev.SleepRequested(A))


def quarantined(fleet: Fleet) -> None:
    fleet.apply(ev.QuarantineRequested(A))


def held(fleet: Fleet) -> None:
    fleet.apply(ev.HoldRequested(A))


def being_removed(fleet: Fleet) -> None:
    fleet.ask()
    fleet.apply(ev.RemovalRequested(A))


def suspect(fleet: Fleet) -> None:
    fleet.apply(ev.RefitRequested(A, "r", "v"))
    fleet.apply(ev.CommandRefused(A, 1, "no", unchanged=None))


def stale(fleet: Fleet) -> None:
    fleet.apply(ev.RefitRequested(A, "r", "v"))
    fleet.apply(ev.CommandSucceeded(A, 1))
    fleet.apply(ev.SentinelLost(A, 1, 0))
    fleet.answer("a")


def updating_before_its_sleep(fleet: Fleet) -> None:
    fleet.apply(ev.RefitRequested(A, "r", "v"))
    fleet.apply(ev.SleepRequested(A))


def absent(fleet: Fleet) -> None:
    fleet.apply(ev.RemovalRequested(A))


AWAY = {
    asleep: {"sleeping": 1},
    falling_asleep: {"releasing": 1},
    draining_for_sleep: {"draining": 1},
    quarantined: {"quarantined": 1},
    held: {"draining": 1},
    being_removed: {"draining": 1},
    suspect: {"suspect": 1},
    stale: {"stale": 1},
    updating_before_its_sleep: {"updating": 1},
    absent: {},
}


@pytest.mark.parametrize("away", AWAY)
@pytest.mark.parametrize("spec", [WorkSpec(), IMAGE, JOB])
def test_work_is_refused_at_once_when_nobody_is_on_its_way(away: object, spec: WorkSpec) -> None:
    fleet = Fleet()
    fleet.add("a")
    assert callable(away)
    away(fleet)
    assert refusal(fleet.ask(spec)) == (NoRoutableWorker, AWAY[away])


@pytest.mark.parametrize(
    ("event", "by_status"),
    [
        (ev.CommandRefused(A, 1, "no", unchanged=None), {"suspect": 1}),
        (ev.CommandLost(A, 1, "gone"), {"quarantined": 1}),
        (ev.QuarantineRequested(A), {"quarantined": 1}),
        (ev.WorkerDied(A, 1, "killed"), {"quarantined": 1}),
        (ev.HoldRequested(A), {"updating": 1}),
        (ev.SleepRequested(A), {"updating": 1}),
        (ev.RemovalRequested(A), {"updating": 1}),
        (ev.RemovalRequested(A, force=True), {}),
    ],
)
def test_what_waits_is_refused_when_the_last_hope_goes(event: ev.Event, by_status: dict[str, int]) -> None:
    fleet = Fleet()
    fleet.add("a")
    updating(fleet)
    waiting = [fleet.ask(), fleet.ask(IMAGE), fleet.ask(JOB), fleet.ask(avoiding("b"))]
    assert all(asker.waits for asker in waiting)
    fleet.apply(event)
    assert [refusal(asker) for asker in waiting] == [(NoRoutableWorker, by_status)] * 4
    assert (fleet.scheduler.queued, fleet.scheduler.queued_bytes) == (0, 0)


def test_all_are_asleep_is_said_so() -> None:
    fleet = Fleet()
    for name in ("a", "b", "c"):
        fleet.add(name)
        put_to_sleep(fleet, name)
    asker = fleet.ask()
    assert asker.error is not None
    assert asker.error.message == "No healthy workers available in the pool: all 3 are asleep"
    assert asker.error.retry_after_s == 1


def test_the_last_worker_to_fall_asleep_ends_the_waiting_of_all() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    for name in ("a", "b"):
        fleet.add(name)
        fleet.ask()
    waiting = [fleet.ask() for _ in range(3)]
    fleet.apply(ev.SleepRequested(A))
    assert all(asker.waits for asker in waiting)
    fleet.apply(ev.SleepRequested(B))
    assert [refusal(asker) for asker in waiting] == [(NoRoutableWorker, {"draining": 2})] * 3


def test_a_worker_that_comes_back_ends_the_waiting() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=2))
    fleet.add("a")
    resuming(fleet)
    waiting = [fleet.ask() for _ in range(3)]
    fleet.apply(ev.CommandSucceeded(A, 2))
    assert [asker.waits for asker in waiting] == [False, False, True]


def test_a_worker_that_refuses_its_refit_goes_on_as_before() -> None:
    fleet = Fleet()
    fleet.add("a")
    updating(fleet)
    waiting = fleet.ask()
    fleet.apply(ev.CommandRefused(A, 1, "no such path", unchanged=True))
    assert waiting.got == "a"


# Jobs


def test_a_job_is_never_held_for_the_cap_and_goes_where_least_is_in_flight() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    fleet.add("a")
    fleet.add("b")
    assert [fleet.ask(JOB).got for _ in range(5)] == ["a", "b", "a", "b", "a"]
    assert fleet.ask().waits


@pytest.mark.parametrize("policy", ["round-robin", "random", "power-of-two"])
def test_a_job_goes_where_it_ends_first_whatever_the_policy(policy: str) -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=0), policy)
    fleet.add("a")
    busy = [fleet.ask() for _ in range(5)]
    fleet.add("b")
    assert [fleet.ask(JOB).got for _ in range(4)] == ["b"] * 4
    assert {asker.got for asker in busy} == {"a"}


def test_a_job_waits_while_no_worker_is_routable_though_one_is_on_its_way() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    fleet.add("a")
    resuming(fleet)
    plain, other, jobs = fleet.ask(), fleet.ask(), [fleet.ask(JOB) for _ in range(3)]
    fleet.apply(ev.CommandSucceeded(A, 2))
    assert (plain.got, other.waits, [job.got for job in jobs]) == ("a", True, ["a"] * 3)


# What skips the queue


def test_a_get_skips_queue_and_cap() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    fleet.add("a")
    fleet.ask()
    waiting = fleet.ask()
    assert fleet.ask(GET).got == "a"
    assert waiting.waits
    assert fleet.scheduler.in_flight(A) == 2


def test_a_get_takes_no_room_from_work() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    fleet.add("a")
    gets = [fleet.ask(GET) for _ in range(3)]
    running = fleet.ask()
    assert running.got == "a"
    waiting = fleet.ask()
    for get in gets:
        fleet.end(get)
    assert waiting.waits
    fleet.end(running)
    assert waiting.got == "a"


def test_gets_go_to_the_least_loaded_in_turn() -> None:
    fleet = Fleet()
    for name in ("a", "b", "c"):
        fleet.add(name)
    fleet.ask()
    assert [fleet.ask(GET).got for _ in range(4)] == ["b", "c", "b", "c"]


def test_a_get_goes_on_while_the_queue_is_held() -> None:
    fleet = Fleet()
    fleet.add("a")
    fleet.scheduler.pause()
    assert fleet.ask(GET).got == "a"


def test_a_get_goes_to_sleepers_only_when_nobody_is_awake() -> None:
    fleet = Fleet()
    for name in ("a", "b", "c"):
        fleet.add(name)
    put_to_sleep(fleet, "a")
    put_to_sleep(fleet, "b")
    assert [fleet.ask(GET).got for _ in range(2)] == ["c", "c"]
    fleet.apply(ev.HoldRequested(worker_id("c")))
    assert [fleet.ask(GET).got for _ in range(3)] == ["a", "b", "a"]


def test_a_get_waits_for_nobody() -> None:
    fleet = Fleet()
    fleet.add("a")
    updating(fleet)
    assert refusal(fleet.ask(GET)) == (NoRoutableWorker, {"updating": 1})


def test_a_quarantined_sleeper_gets_nothing() -> None:
    fleet = Fleet()
    fleet.add("a")
    put_to_sleep(fleet, "a")
    fleet.apply(ev.QuarantineRequested(A))
    assert refusal(fleet.ask(GET)) == (NoRoutableWorker, {"quarantined": 1})


def test_a_drain_waits_for_gets_too() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    get = fleet.ask(GET)
    fleet.apply(ev.SleepRequested(A))
    assert worker.status.value == "draining"
    fleet.end(get)
    assert worker.status.value == "releasing"


# The queue


def test_the_queue_is_bounded_in_number_and_bytes() -> None:
    fleet = Fleet(SchedulerLimits(QueueLimits(max_requests=3, max_bytes=100), max_concurrency=1))
    fleet.add("a")
    fleet.ask()
    assert fleet.ask(WorkSpec(size_bytes=60)).waits
    assert refusal(fleet.ask(WorkSpec(size_bytes=41))) == (QueueFull, {"active": 1})
    assert fleet.ask(WorkSpec(size_bytes=40)).waits
    assert fleet.ask().waits
    too_many = fleet.ask()
    assert too_many.error is not None
    assert too_many.error.message == "the queue is full (3 requests)"
    assert too_many.error.facts == {"queued": 3, "by_status": {"active": 1}}
    assert too_many.error.retry_after_s == 1
    assert (fleet.scheduler.queued, fleet.scheduler.queued_bytes) == (3, 100)


def test_waiting_ends_at_its_deadline() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    fleet.add("a")
    fleet.ask()
    patient, hasty = fleet.ask(WorkSpec(deadline_s=60.0)), fleet.ask(WorkSpec(deadline_s=30.0))
    assert fleet.scheduler.next_deadline_s() == 30.0
    fleet.tick(30.0)
    assert (patient.waits, hasty.waits) == (True, False)
    assert refusal(hasty) == (QueueTimeout, {"active": 1})
    assert hasty.error is not None
    assert hasty.error.facts["waited_s"] == 30.0
    assert fleet.scheduler.next_deadline_s() == 60.0


def test_a_held_queue_grants_nothing_and_refuses_nobody_while_there_is_room() -> None:
    fleet = Fleet(SchedulerLimits(QueueLimits(max_requests=3)))
    fleet.scheduler.pause()
    assert fleet.scheduler.paused
    video, image, job = fleet.ask(VIDEO), fleet.ask(IMAGE), fleet.ask(JOB)
    assert refusal(fleet.ask()) == (QueueFull, {})
    fleet.add("a", T2I)
    assert all(asker.waits for asker in (video, image, job))
    fleet.deliver(fleet.scheduler.resume(fleet.now_s))
    assert (image.got, job.got, refusal(video)) == ("a", "a", (NoCapableWorker, "video"))


def test_nothing_is_granted_while_held_when_work_ends() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    fleet.add("a")
    running = fleet.ask()
    waiting = fleet.ask()
    fleet.scheduler.pause()
    fleet.end(running)
    assert waiting.waits


# Removal


def test_a_removed_workers_leases_end_in_their_own_time() -> None:
    fleet = Fleet()
    fleet.add("a")
    old = fleet.ask()
    fleet.apply(ev.RemovalRequested(A, force=True))
    assert fleet.scheduler.leases_of(A) == [old.lease]
    fleet.add("a")
    new = fleet.ask()
    assert fleet.scheduler.leases_of(A) == [new.lease]
    fleet.end(old)
    assert (fleet.scheduler.in_flight(A), fleet.scheduler.live_leases) == (1, 1)


def test_a_quarantined_workers_lease_gives_its_room_to_nobody() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    fleet.add("a")
    fleet.add("b")
    running = [fleet.ask(), fleet.ask()]
    waiting = fleet.ask()
    for _ in range(3):
        fleet.apply(ev.ProbeFailed(A, 1, ProbeFailure.REFUSED))
    fleet.end(running[0], Result.DIED, 0)
    assert waiting.waits
    fleet.end(running[1])
    assert waiting.got == "b"


def test_what_an_event_changed_is_judged_before_work_is_given_out() -> None:
    """A fence that closes the last routable worker must not send its queue to one that the same event made stale."""
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    fleet.add("a")
    fleet.ask()
    waiting = fleet.ask()
    fleet.register("b")
    step = Step(StepKind.DISK, "v1", "/update_weights_from_disk")
    fleet.apply(ev.RefitOpened(frozenset({"m"}), "r", "v1", Mode.DRAIN, step))
    assert waiting.waits


# Work that is on a worker already


@pytest.mark.parametrize("state", ["routable", "full", "held", "asleep", "quarantined", "unproven"])
def test_work_that_runs_already_gets_a_lease_however_its_worker_is(state: str) -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    worker = fleet.register("a") if state == "unproven" else fleet.add("a")
    fleet.end(fleet.ask())
    match state:
        case "full":
            fleet.ask()
        case "held":
            fleet.apply(ev.HoldRequested(A))
        case "asleep":
            put_to_sleep(fleet, "a")
        case "quarantined":
            fleet.apply(ev.QuarantineRequested(A))
    lease = fleet.scheduler.adopt(worker, JOB, 3.0)
    assert (lease.worker, lease.spec, lease.granted_s, lease.queued_s) == (worker, JOB, 3.0, 0.0)
    assert lease in fleet.scheduler.leases_of(A)
    in_flight = fleet.scheduler.in_flight(A)
    fleet.deliver(fleet.scheduler.release(lease, Result.OK, 0, 4.0))
    assert fleet.scheduler.in_flight(A) == in_flight - 1


def test_it_takes_its_room_as_soon_as_the_worker_takes_work_and_gives_it_back() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    lease = fleet.scheduler.adopt(fleet.register("a"), JOB, 0.0)
    fleet.answer("a")
    waiting = fleet.ask()
    assert waiting.waits
    fleet.deliver(fleet.scheduler.release(lease, Result.OK, 0, 1.0))
    assert waiting.got == "a"


def test_a_drain_waits_for_it() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    asker = Asker(JOB)
    asker.lease = fleet.scheduler.adopt(worker, JOB, 0.0)
    fleet.apply(ev.RefitRequested(A, "r", "v1"))
    assert worker.state is WorkerState.DRAINING
    fleet.end(asker)
    assert worker.state is WorkerState.UPDATING


def test_a_worker_that_is_not_here_has_no_work() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    fleet.apply(ev.RemovalRequested(A, force=True))
    with pytest.raises(KeyError):
        fleet.scheduler.adopt(worker, JOB, 0.0)


# When to come back


def crowded(cost: float, speed: float | None, waiting: int) -> Fleet:
    """Two workers of a known speed, in megapixel-steps per second, with a piece each, and a queue that is full."""
    fleet = Fleet(SchedulerLimits(QueueLimits(max_requests=waiting), max_concurrency=1))
    for name in "ab":
        fleet.add(name)
        learned = fleet.scheduler.speed_of(worker_id(name))
        assert learned is not None
        if speed is not None:
            learned.learn(speed, 1.0)
    for _ in range(2 + waiting):
        fleet.ask(WorkSpec(cost_mpx_steps=cost))
    return fleet


@pytest.mark.parametrize(
    ("cost", "speed", "after_s"),
    [(10.0, 2.0, 15), (10.0, 0.1, 60), (10.0, 1000.0, 1), (10.0, None, 1)],
    ids=["as long as it takes", "a minute at most", "a second at least", "a second when nothing is known"],
)
def test_a_full_queue_says_when_the_work_ahead_will_have_been_done(
    cost: float, speed: float | None, after_s: int
) -> None:
    error = crowded(cost, speed, waiting=4).ask(WorkSpec(cost_mpx_steps=cost)).error
    assert (type(error), error and error.retry_after_s) == (QueueFull, after_s)


def test_work_that_must_be_done_by_now_is_not_ahead() -> None:
    fleet = crowded(10.0, 2.0, waiting=4)
    fleet.now_s = 4.0
    error = fleet.ask().error
    assert error is not None
    assert error.retry_after_s == 11


def test_nobody_can_say_when_workers_that_are_away_will_be_done() -> None:
    fleet = crowded(10.0, 2.0, waiting=4)
    for asker in (A, B):
        fleet.apply(ev.RefitRequested(asker, "refit-1", "v1"))
    error = fleet.ask().error
    assert (type(error), error and error.retry_after_s) == (QueueFull, 1)


# Priorities


def prior(priority: int, cost: float = 1.0) -> WorkSpec:
    return WorkSpec(priority=priority, cost_mpx_steps=cost)


@pytest.mark.parametrize("policy", list(POLICIES))
def test_of_what_waits_the_higher_priority_is_next(policy: str) -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1), policy)
    fleet.add("a")
    running = fleet.ask()
    waiting = [fleet.ask(prior(*work)) for work in ((0, 9.0), (4,), (9,), (4,))]
    order = []
    while any(asker.waits for asker in waiting):
        before = [asker.waits for asker in waiting]
        fleet.end(running)
        ((got, running),) = [(n, asker) for n, asker in enumerate(waiting) if before[n] and not asker.waits]
        order.append(got)
    assert order == [2, 1, 3, 0]


@pytest.mark.parametrize("policy", sorted(POLICIES.keys() - {"longest-first"}))
def test_nobody_waits_for_ever_behind_a_higher_priority(policy: str) -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1), policy)
    fleet.add("a")
    running = fleet.ask()
    ahead = [fleet.ask(prior(0)) for _ in range(5)]
    low = fleet.ask(prior(0))
    overtaken = 0
    while low.waits:
        urgent = fleet.ask(prior(9))
        fleet.end(running)
        running = next(asker for asker in [urgent, *ahead, low] if asker.lease is not None and asker.lease.live)
        overtaken += running.spec.priority
        ahead = [asker for asker in [*ahead, urgent] if asker.waits]
    # It is overdue once twice the work has been given out that waited before it, and its own.
    assert 5 * 9 <= overtaken <= 7 * 9


# Whatever happens, in whatever order

TestPromises = FleetMachine.TestCase
TestPromises.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
# It takes two seconds, unless it fails: then it is worth waiting for the shortest way to the failure.
TestPromises.pytestmark = pytest.mark.timeout(600)


# Work for one worker


def pinned(name: str, **asked: object) -> WorkSpec:
    return WorkSpec(worker=worker_id(name), **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["least-request", "least-work"])
def test_pinned_work_waits_for_its_worker_and_holds_up_nobody(policy: str) -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1), policy)
    fleet.add("a")
    fleet.add("b")
    busy = fleet.ask(pinned("a"))
    waiting = fleet.ask(pinned("a"))
    other = fleet.ask(IMAGE)
    assert (busy.got, waiting.waits, other.got) == ("a", True, "b")
    fleet.end(other)
    assert waiting.waits
    fleet.end(busy)
    assert waiting.got == "a"


def test_a_pinned_job_waits_for_no_room_and_a_pinned_read_for_nothing() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    fleet.add("a")
    fleet.add("b")
    put_to_sleep(fleet, "b")
    kinds = [fleet.ask(pinned("a", creates_job=True)) for _ in range(3)]
    reads = [fleet.ask(pinned(name, skips_queue=True)) for name in "ab"]
    assert [asker.got for asker in [*kinds, *reads]] == ["a", "a", "a", "a", "b"]


@pytest.mark.parametrize("how", [{}, {"skips_queue": True}, {"creates_job": True}])
def test_pinned_work_is_refused_at_once_where_no_wait_can_help(how: dict[str, bool]) -> None:
    fleet = Fleet()
    fleet.add("a")
    fleet.add("b")
    fleet.apply(ev.QuarantineRequested(B))
    away, unknown = fleet.ask(pinned("b", **how)).error, fleet.ask(pinned("c", **how)).error
    assert (type(away), away and away.facts) == (WorkerUnavailable, {"worker": B, "status": "quarantined"})
    assert (type(unknown), unknown and unknown.facts) == (UnknownWorker, {"worker_id": worker_id("c")})


def test_pinned_work_is_refused_what_its_worker_does_not_make() -> None:
    fleet = Fleet()
    fleet.add("a", T2I)
    fleet.add("b", T2V)
    error = fleet.ask(pinned("a", needs=Needs.VIDEO)).error
    assert (type(error), error and error.facts) == (NoCapableWorker, {"output": "video", "worker": A})


@pytest.mark.parametrize("paused", [False, True])
def test_pinned_work_that_its_worker_failed_goes_nowhere_else(*, paused: bool) -> None:
    fleet = Fleet()
    fleet.add("a")
    fleet.add("b")
    if paused:
        fleet.scheduler.pause()
    assert type(fleet.ask(pinned("a", avoid=frozenset({A}))).error) is WorkerUnavailable


def test_pinned_work_that_waits_is_told_when_its_worker_goes() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    fleet.add("a")
    fleet.add("b")
    fleet.ask(pinned("a"))
    asleep = fleet.ask(pinned("a"))
    fleet.apply(ev.SleepRequested(A))
    fleet.ask(pinned("b"))
    removed = fleet.ask(pinned("b"))
    fleet.apply(ev.RemovalRequested(B, force=True))
    errors = [asker.error and asker.error.facts for asker in (asleep, removed)]
    assert errors == [{"worker": A, "status": "draining"}, {"worker": B, "status": "removed"}]


def test_pinned_work_waits_out_a_refit_of_its_worker_until_its_deadline() -> None:
    fleet = Fleet()
    fleet.add("a")
    fleet.add("b")
    fleet.apply(ev.RefitRequested(A, "refit-1", "v1"))
    asker = fleet.ask(pinned("a", deadline_s=5.0))
    fleet.tick(4.0)
    assert asker.waits
    fleet.tick(1.0)
    assert asker.error is not None
    assert asker.error.facts == {"waited_s": 5.0, "by_status": {"updating": 1}, "worker": A}
