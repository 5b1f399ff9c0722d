"""What can be read off the queue and the workers."""

import pytest

from core.fleet import T2I, T2V, Fleet, worker_id
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.limits import SchedulerLimits
from sglang_diffusion_routing.core.work import Needs, Result, WorkSpec

pytestmark = pytest.mark.core

A = worker_id("a")
IMAGE, VIDEO = WorkSpec(Needs.IMAGE), WorkSpec(Needs.VIDEO)


@pytest.mark.parametrize(
    ("result", "answered"),
    [(result, result in {Result.OK, Result.SERVER_ERROR}) for result in Result],
)
def test_only_a_complete_reply_shows_that_a_worker_lives(result: Result, *, answered: bool) -> None:
    fleet = Fleet()
    fleet.add("a")
    asker = fleet.ask()
    fleet.now_s = 3.0
    fleet.end(asker, result)
    assert fleet.scheduler.answered_s(A) == (3.0 if answered else None)


def test_nothing_is_known_of_a_worker_that_is_not_here() -> None:
    scheduler = Fleet().scheduler
    assert (scheduler.in_flight(A), scheduler.leases_of(A), scheduler.answered_s(A)) == (0, [], None)
    assert (scheduler.ended(A), scheduler.leases_ended()) == ({}, [0] * len(Result))


def test_the_oldest_of_what_waits_is_found_wherever_it_stands() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    fleet.add("a", T2I)
    fleet.add("b", T2V)
    image, video = fleet.ask(IMAGE), fleet.ask(VIDEO)
    assert fleet.scheduler.queued_since_s is None
    for now_s, spec in enumerate((VIDEO, IMAGE, WorkSpec(Needs.IMAGE, priority=9)), 1):
        fleet.now_s = float(now_s)
        fleet.ask(spec)
    assert fleet.scheduler.queued_since_s == 1.0
    fleet.end(video)
    assert fleet.scheduler.queued_since_s == 2.0
    # The more urgent one goes; the older one waits on.
    fleet.end(image)
    assert fleet.scheduler.queued_since_s == 2.0


def test_what_has_ended_on_a_worker_is_told_by_route_and_result() -> None:
    fleet = Fleet()
    fleet.add("a")
    for route, result in [("x", Result.OK), ("x", Result.OK), ("x", Result.DIED), ("y", Result.ABANDONED)]:
        fleet.end(fleet.ask(WorkSpec(route=route)), result)
    rows = fleet.scheduler.ended(A)
    assert {
        route: [Result(i) for i, number in enumerate(row) for _ in range(number)] for route, row in rows.items()
    } == {
        "x": [Result.OK, Result.OK, Result.DIED],
        "y": [Result.ABANDONED],
    }


def test_what_has_ended_is_counted_beyond_the_time_of_its_worker() -> None:
    fleet = Fleet()
    fleet.add("a")
    fleet.end(fleet.ask(WorkSpec(route="x")), Result.OK)
    last = fleet.ask(WorkSpec(route="y"))
    fleet.apply(ev.RemovalRequested(A, force=True))
    fleet.end(last, Result.DIED)
    assert fleet.scheduler.ended(A) == {}
    fleet.add("a")
    fleet.end(fleet.ask(WorkSpec(route="x")), Result.OK)
    total = fleet.scheduler.leases_ended()
    assert {Result(i): number for i, number in enumerate(total) if number} == {Result.OK: 2, Result.DIED: 1}
    assert sum(map(sum, fleet.scheduler.ended(A).values())) == 1
