"""Where the workers stand."""

import pytest

from core.fleet import Fleet, worker_id
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.limits import SchedulerLimits
from sglang_diffusion_routing.core.work import Result
from sglang_diffusion_routing.core.worker import RequestId
from sglang_diffusion_routing.errors import NoRoutableWorker

pytestmark = pytest.mark.core

A = worker_id("a")


def test_refreshing_what_has_not_changed_does_not_cost_a_worker_its_turn() -> None:
    fleet = Fleet()
    fleet.add("a")
    fleet.add("b")
    fleet.answer("a")
    assert fleet.ask().got == "a"


def test_a_worker_that_was_never_asked_is_tried_while_nobody_is_routable() -> None:
    fleet = Fleet()
    fleet.register("a")
    assert fleet.ask().got == "a"


def test_a_worker_that_was_never_asked_gets_nothing_while_somebody_is_routable() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    fleet.add("a")
    fleet.register("b")
    assert fleet.ask().got == "a"
    waiting = fleet.ask()
    assert waiting.waits
    fleet.apply(ev.HoldRequested(A))
    assert waiting.got == "b"


def test_a_worker_that_becomes_routable_ends_the_exception() -> None:
    fleet = Fleet(SchedulerLimits(max_concurrency=1))
    fleet.register("a")
    fleet.register("b")
    running = fleet.ask()
    fleet.learn("b")
    fleet.answer("b")
    fleet.end(running)
    assert [fleet.ask().got, fleet.ask().waits] == ["b", True]


def test_what_may_have_been_restarted_is_not_tried_but_waited_for_until_it_has_answered() -> None:
    fleet = Fleet()
    fleet.add("a")
    fleet.apply(ev.SentinelLost(A, 1, 0))
    waiting = fleet.ask()
    assert waiting.waits
    fleet.answer("a")
    assert waiting.got == "a"
    fleet.end(waiting)
    fleet.apply(ev.RefitRequested(A, "refit-1", "v1"))
    fleet.apply(ev.CommandSucceeded(A, 1))
    fleet.apply(ev.SentinelLost(A, 1, 0))
    error = fleet.ask().error
    assert isinstance(error, NoRoutableWorker)
    assert error.facts == {"by_status": {"joining": 1}}


def test_nothing_is_kept_of_a_removed_worker_once_its_leases_have_ended() -> None:
    fleet = Fleet()
    fleet.add("a")
    old = fleet.ask()
    fleet.apply(ev.RemovalRequested(A, force=True))
    fleet.end(old, Result.ABANDONED)
    stations = fleet.scheduler._stations
    assert (stations.by_worker, stations.by_id, stations._lanes._stations) == ({}, {}, {})


def test_a_worker_that_was_removed_before_it_was_heard_of_is_nothing_new() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    fleet.apply(ev.RemovalRequested(A, request=RequestId("r")))
    assert fleet.scheduler.refresh([worker], 0.0) == []
