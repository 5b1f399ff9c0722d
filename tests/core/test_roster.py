"""What can be read off the workers."""

import pytest

from core.fleet import T2V, Fleet, worker_id
from sglang_diffusion_routing.core import events as ev
from sglang_diffusion_routing.core.health import ProbeFailure

pytestmark = pytest.mark.core


def test_workers_are_in_the_order_of_their_registration() -> None:
    fleet = Fleet()
    for name in ("c", "a", "b"):
        fleet.register(name)
    fleet.apply(ev.RemovalRequested(worker_id("a"), force=True))
    fleet.register("a")
    assert list(fleet.pool.workers) == [worker_id(name) for name in ("c", "b", "a")]


def test_the_workers_cannot_be_changed_from_outside() -> None:
    fleet = Fleet()
    with pytest.raises(TypeError):
        fleet.pool.workers[worker_id("a")] = fleet.register("a")  # type: ignore[index]


def test_statuses_are_counted() -> None:
    fleet = Fleet()
    fleet.add("a")
    fleet.add("b", T2V)
    fleet.register("c")
    fleet.apply(ev.SleepRequested(worker_id("b")))
    assert fleet.pool.counts_by_status() == {"active": 1, "joining": 1, "releasing": 1}


def test_an_unproven_worker_is_tried_only_while_no_worker_is_routable() -> None:
    fleet = Fleet()
    unproven = fleet.register("a")
    assert fleet.pool.is_routable(unproven)
    proven = fleet.add("b")
    assert [fleet.pool.is_routable(worker) for worker in (unproven, proven)] == [False, True]
    fleet.apply(ev.HoldRequested(worker_id("b")))
    assert [fleet.pool.is_routable(worker) for worker in (unproven, proven)] == [True, False]
    fleet.apply(ev.ProbeFailed(worker_id("a"), unproven.incarnation, ProbeFailure.REFUSED))
    assert [fleet.pool.is_routable(worker) for worker in (unproven, proven)] == [False, False]


def test_a_removed_worker_is_not_routable() -> None:
    fleet = Fleet()
    worker = fleet.add("a")
    fleet.apply(ev.RemovalRequested(worker_id("a")))
    assert not fleet.pool.is_routable(worker)
    assert fleet.pool.changed == [worker]


def test_the_fleet_sleeps_when_every_worker_that_stays_sleeps_or_is_about_to() -> None:
    fleet = Fleet()
    assert not fleet.pool.asleep
    for name in ("a", "b", "c"):
        fleet.add(name)
    fleet.ask()
    seen = []
    for name in ("a", "b"):
        fleet.apply(ev.SleepRequested(worker_id(name)))
        seen.append(fleet.pool.asleep)
    fleet.ask()
    fleet.apply(ev.RemovalRequested(worker_id("c")))
    assert [*seen, fleet.pool.asleep] == [False, False, True]


def test_changed_names_what_the_last_event_touched() -> None:
    fleet = Fleet()
    first, second = fleet.add("a"), fleet.add("b")
    fleet.pool.handle(ev.HoldRequested(worker_id("a")), 0.0)
    assert fleet.pool.changed == [first]
    fleet.pool.handle(ev.HoldRequested(worker_id("b")), 0.0)
    assert fleet.pool.changed == [second]
    fleet.pool.tick(0.0)
    assert fleet.pool.changed == []
