"""Where each ticket of a lane stands, and by what it ages."""

import math

import pytest

from core.fleet import Asker, worker_id
from sglang_diffusion_routing.core.line import Order
from sglang_diffusion_routing.core.lines import Lines
from sglang_diffusion_routing.core.work import LineKey, Ticket, WorkSpec

pytestmark = pytest.mark.core


def ticket(sequence: int, spec: WorkSpec | None = None) -> Ticket:
    spec = spec or WorkSpec()
    return Ticket(spec, Asker(spec), 0.0, sequence)


def contents(lines: Lines) -> dict[LineKey, list[Ticket]]:
    return {key: list(line) for key, line in lines.items()}


def test_tickets_alike_stand_in_one_line() -> None:
    its = Lines(Order.ARRIVAL)
    retry = WorkSpec(avoid=frozenset({worker_id("a")}))
    first, second, job, again = ticket(1), ticket(2), ticket(3, WorkSpec(creates_job=True)), ticket(-9, retry)
    for one in (first, second, job, again):
        its.add(one)
    assert contents(its) == {
        LineKey(): [first, second],
        LineKey(creates_job=True): [job],
        LineKey(frozenset({worker_id("a")})): [again],
    }
    its.remove(first)
    its.remove(job)
    assert list(contents(its).values()) == [[second], [again]]


def test_a_lane_knows_how_much_waits_and_how_much_it_has_given_out() -> None:
    its = Lines(Order.ARRIVAL)
    first, second, third = (ticket(n, WorkSpec(cost_mpx_steps=cost)) for n, cost in enumerate((5.0, 7.0, 1.0)))
    for one in (first, second):
        its.add(one)
    assert (its.work, its.given_out) == (12.0, 0.0)
    its.grant(first)
    its.add(third)
    its.remove(second)
    assert (its.work, its.given_out) == (1.0, 5.0)
    # Overdue once twice the work that waited before it, and its own, is given out; the third came when 5 had been.
    assert [one.due_at for one in (first, second, third)] == [10.0, 24.0, 5.0 + 2 * 8.0]


def test_work_that_failed_elsewhere_is_overdue_at_once() -> None:
    its, retry = Lines(Order.ARRIVAL), ticket(1, WorkSpec(avoid=frozenset({worker_id("a")})))
    its.add(ticket(2, WorkSpec(cost_mpx_steps=5.0)))
    its.add(retry)
    assert retry.due_at == -math.inf


@pytest.mark.parametrize("order", [Order.ARRIVAL, Order.LONGEST_AGED])
def test_only_work_of_the_same_or_a_higher_priority_is_ahead(order: Order) -> None:
    its = Lines(order)
    tickets = []
    for sequence, (priority, cost) in enumerate([(4, 3.0), (0, 5.0), (9, 1.0), (4, 1.0), (0, 1.0)]):
        tickets.append(ticket(sequence, WorkSpec(priority=priority, cost_mpx_steps=cost)))
        its.add(tickets[-1])
    assert [one.due_at for one in tickets] == [6.0, 16.0, 2.0, 10.0, 22.0]
    assert (its.levels, its.clock) == ({4: 2, 0: 2, 9: 1}, 0.0)
    for one in tickets[:-1]:
        its.grant(one)
    # What is left has one priority: the order of arrival needs no clock.
    assert (its.levels, its.clock) == ({0: 1}, -math.inf if order is Order.ARRIVAL else 10.0)


def test_what_is_tied_to_a_worker_is_found_by_that_worker_alone() -> None:
    its, (a, b) = Lines(Order.ARRIVAL), (worker_id("a"), worker_id("b"))
    free, to_a, to_b = ticket(1), ticket(2, WorkSpec(worker=a)), ticket(3, WorkSpec(worker=b))
    for one in (free, to_a, to_b):
        its.add(one)
    found = {
        who: [one for _, lines in its.kinds(worker_id(who)) for line in lines.values() for one in line] for who in "abc"
    }
    assert found == {"a": [free, to_a], "b": [free, to_b], "c": [free]}
    assert list(its) == [free, to_a, to_b]
    its.remove(to_a)
    assert (its.tied.keys(), its.count) == ({b}, 2)


def test_a_ticket_that_is_moved_keeps_its_place_and_its_age() -> None:
    its, a = Lines(Order.ARRIVAL), worker_id("a")
    first, second, third = (ticket(n, WorkSpec(cost_mpx_steps=2.0)) for n in (1, 2, 3))
    for one in (first, second, third):
        its.add(one)
    due_at, free, tied = second.due_at, second.key, second.key._replace(bound=a)
    its.move(second, tied)
    assert contents(its) == {free: [first, third], tied: [second]}
    its.grant(first)
    its.move(second, free)
    assert (contents(its), second.due_at) == ({free: [second, third]}, due_at)
    assert (its.count, its.work, its.given_out, its.levels) == (2, 4.0, 2.0, {0: 2})


def test_what_is_overdue_goes_before_other_lanes_and_priorities_but_not_before_other_tenants_alone() -> None:
    its, other = Lines(Order.LONGEST_AGED), Lines(Order.LONGEST_AGED)
    overdue = ticket(1, WorkSpec(cost_mpx_steps=2.0))
    its.add(overdue)
    line, due_at = its.line(overdue.key), overdue.due_at
    assert its.rank(line, overdue, due_at) == (0, 0.0, 0.0, due_at, 1)
    assert its.rank(line, overdue, due_at, other) == (-math.inf, due_at, 0.0, 0.0, 1)
    its.add(ticket(2, WorkSpec(priority=8)))
    assert its.rank(line, overdue, due_at) == (-math.inf, due_at, 0.0, 0.0, 1)
    assert its.rank(line, overdue, 0.0) == (0, 0.0, 1.0, -2.0, 1)
