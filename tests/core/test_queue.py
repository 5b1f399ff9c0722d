"""Bounds, order and deadlines of what waits."""

import pytest

from core.fleet import Asker, worker_id
from sglang_diffusion_routing.core.limits import QueueLimits
from sglang_diffusion_routing.core.queue import Queue
from sglang_diffusion_routing.core.work import Ticket, WorkSpec

pytestmark = pytest.mark.core

RETRY = frozenset({worker_id("a")})


def enter(queue: Queue, spec: WorkSpec, now_s: float = 0.0) -> Ticket:
    return queue.enter(spec, Asker(spec), now_s)


def test_a_bound_is_named_when_it_would_be_broken() -> None:
    queue = Queue(QueueLimits(max_requests=2, max_bytes=10))
    big, small = WorkSpec(size_bytes=9), WorkSpec(size_bytes=1)
    seen = [queue.met(big)]
    enter(queue, big)
    seen += [queue.met(big), queue.met(small)]
    enter(queue, small)
    seen += [queue.met(small), queue.met(WorkSpec())]
    assert seen == [None, "10 bytes", None, "2 requests", "2 requests"]
    assert (queue.count, queue.size_bytes) == (2, 10)


def test_whoever_leaves_makes_room() -> None:
    queue = Queue(QueueLimits(max_requests=1, max_bytes=5))
    ticket = enter(queue, WorkSpec(size_bytes=5))
    queue.leave(ticket)
    assert (ticket.waiting, queue.count, queue.size_bytes, queue.met(WorkSpec(size_bytes=5))) == (False, 0, 0, None)


def test_work_that_a_worker_has_failed_is_never_turned_away_and_goes_ahead() -> None:
    queue = Queue(QueueLimits(max_requests=1, max_bytes=1))
    first = enter(queue, WorkSpec(size_bytes=1))
    again = WorkSpec(size_bytes=1, avoid=RETRY)
    assert queue.met(again) is None
    one, two = enter(queue, again), enter(queue, again)
    assert sorted([first, one, two], key=lambda ticket: ticket.sequence) == [one, two, first]


def test_what_is_due_is_given_once_and_in_order() -> None:
    queue = Queue(QueueLimits())
    late, early, left = (enter(queue, WorkSpec(deadline_s=at_s)) for at_s in (9.0, 3.0, 1.0))
    never = enter(queue, WorkSpec())
    queue.leave(left)
    assert queue.next_deadline_s() == 3.0
    assert queue.due(2.9) == []
    assert queue.due(9.0) == [early, late]
    assert (queue.due(99.0), queue.next_deadline_s(), never.waiting) == ([], None, True)


def test_a_demand_is_due_when_it_has_waited_long_enough_and_again_when_reminded() -> None:
    queue = Queue(QueueLimits(weights_wait_s=10.0))
    plain, demand = enter(queue, WorkSpec(min_version="v1")), enter(queue, WorkSpec(min_version="v1", deadline_s=4.0))
    assert queue.has_demands
    assert (queue.due(4.0), queue.due(9.9), queue.due(10.0)) == ([demand], [], [plain])
    queue.remind(plain, 10.0)
    assert queue.next_deadline_s() == 20.0
    queue.leave(plain)
    assert (queue.has_demands, queue.next_deadline_s()) == (True, None)
    queue.leave(demand)
    assert not queue.has_demands


def test_what_a_group_has_come_to_is_a_demand_while_it_waits() -> None:
    queue = Queue(QueueLimits())
    first, second = enter(queue, WorkSpec()), enter(queue, WorkSpec())
    seen = [queue.has_demands]
    for ticket in (first, second):
        key = ticket.key._replace(floor=(("m", 2),))
        queue.change(ticket, key)
        ticket.key = key
    seen.append(queue.has_demands)
    queue.change(first, first.key._replace(floor=()))
    first.key = first.key._replace(floor=())
    seen.append(queue.has_demands)
    queue.leave(second)
    seen.append(queue.has_demands)
    queue.leave(first)
    assert [*seen, queue.has_demands] == [False, True, True, False, False]


def test_the_bound_on_versions_is_named_and_is_none_for_those_that_are_waited_for() -> None:
    queue = Queue(QueueLimits(max_demands=1))
    ticket = enter(queue, WorkSpec(min_version="v1"))
    wanted = [WorkSpec(min_version="v2"), WorkSpec(min_version="v1"), WorkSpec()]
    assert [queue.met(spec) for spec in wanted] == ["1 different weight versions", None, None]
    queue.leave(ticket)
    assert queue.met(wanted[0]) is None


def test_deadlines_of_what_was_granted_long_ago_do_not_pile_up() -> None:
    queue = Queue(QueueLimits())
    stays = enter(queue, WorkSpec(deadline_s=2_000_000.0))
    for at_s in range(1_000):
        queue.leave(enter(queue, WorkSpec(deadline_s=1_000_000.0 + at_s)))
    assert len(queue._deadlines) < 100
    assert queue.due(2_000_000.0) == [stays]
