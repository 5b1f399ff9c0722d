"""Tests of what those who watch are told."""

import asyncio

import pytest

from sglang_diffusion_routing.core.work import Result, WorkSpec
from sglang_diffusion_routing.runtime.watch import BEHIND, REMEMBERED, Bar, Change, Watch
from support.fleet import RecordingFleet

pytestmark = pytest.mark.core


async def test_work_that_ends_and_workers_that_change_are_told_in_order() -> None:
    fleet = RecordingFleet()
    watcher = fleet.watch.join()
    worker = fleet.join("http://a:1")
    lease = fleet.adopt(worker, WorkSpec(route="images"))
    fleet.release(lease, Result.OK, 200)

    news = watcher.take()
    changes = [(one.before, one.now) for one in news if isinstance(one, Change)]
    (bar,) = [one for one in news if isinstance(one, Bar)]
    assert changes == [(None, "joining"), ("joining", "active")]
    assert (bar.worker, bar.route, bar.result, bar.status, bar.weights) == ("http://a:1", "images", "ok", 200, "0")
    assert bar.piece == lease.lease_id
    assert bar.began_s == lease.granted_s <= bar.ended_s
    assert watcher.take() == []


async def test_work_is_not_looked_at_while_nobody_watches() -> None:
    fleet = RecordingFleet()
    worker = fleet.join("http://a:1")
    fleet.release(fleet.adopt(worker, WorkSpec()), Result.OK, 200)
    assert [type(one) for one in fleet.watch.past()] == [Change, Change]

    watcher = fleet.watch.join()
    fleet.release(fleet.adopt(worker, WorkSpec()), Result.OK, 200)
    assert [type(one) for one in fleet.watch.past()] == [Change, Change, Bar]
    fleet.watch.leave(watcher)
    assert [type(one) for one in fleet.watch.past()] == [Change, Change]
    assert fleet.watch.count == 0


async def test_who_falls_behind_is_told_to_look_anew_and_nothing_grows() -> None:
    fleet = RecordingFleet()
    worker = fleet.join("http://a:1")
    slow, quick = fleet.watch.join(), fleet.watch.join()
    for _ in range(BEHIND + 1):
        fleet.release(fleet.adopt(worker, WorkSpec()), Result.OK, 200)
        quick.take()

    assert (slow.lost, quick.lost) == (True, False)
    assert slow.take() == []
    assert len(fleet.watch.past()) == REMEMBERED + 2


async def test_who_waits_is_told_at_once_when_the_router_ends() -> None:
    watch = Watch(asyncio.get_running_loop().time)
    assert await watch.closed_within(0.001) is False
    watch.close()
    assert await watch.closed_within(60.0) is True
