"""Who waits, and how waiting ends without a lease."""

import pytest

from core.fleet import Fleet, worker_id
from sglang_diffusion_routing.core.limits import QueueLimits, SchedulerLimits
from sglang_diffusion_routing.core.work import Needs, WorkSpec
from sglang_diffusion_routing.errors import ShuttingDown

pytestmark = pytest.mark.core

A = worker_id("a")


def test_who_leaves_the_queue_is_not_served_and_makes_room() -> None:
    fleet = Fleet(SchedulerLimits(QueueLimits(max_requests=2), max_concurrency=1))
    fleet.add("a")
    running = fleet.ask()
    first, second = fleet.ask(), fleet.ask()
    assert first.ticket is not None
    fleet.scheduler.abandon(first.ticket)
    third = fleet.ask()
    fleet.end(running)
    assert (first.answers, second.got, third.waits) == (0, "a", True)


def test_leaving_after_the_decision_changes_nothing() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    fleet.add("a")
    running = fleet.ask()
    waiting = fleet.ask()
    fleet.end(running)
    assert waiting.ticket is not None
    fleet.scheduler.abandon(waiting.ticket)
    assert (fleet.scheduler.queued, fleet.scheduler.in_flight(A)) == (0, 1)


def test_all_that_waits_can_be_dropped() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    fleet.add("a")
    running = fleet.ask()
    waiting = [fleet.ask(), fleet.ask(WorkSpec(creates_job=True))]
    waiting += [fleet.ask(WorkSpec(Needs.IMAGE)), fleet.ask(WorkSpec(avoid=frozenset({worker_id("b")})))]
    error = ShuttingDown()
    fleet.deliver(fleet.scheduler.drop_all(error))
    assert [asker.error for asker in waiting] == [error, None, error, error]
    assert waiting[1].got == "a"
    assert (fleet.scheduler.queued, running.lease is not None and running.lease.live) == (0, True)


def test_some_of_what_waits_can_be_dropped() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    fleet.add("a")
    fleet.ask()
    big, small = fleet.ask(WorkSpec(size_bytes=9)), fleet.ask()
    fleet.deliver(fleet.scheduler.drop(lambda ticket: ticket.spec.size_bytes > 5, ShuttingDown()))
    assert (big.waits, small.waits, fleet.scheduler.queued_bytes) == (False, True, 0)
