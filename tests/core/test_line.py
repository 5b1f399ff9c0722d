"""Who is next among tickets alike."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.fleet import Asker
from sglang_diffusion_routing.core.line import PATIENCE, Line, Order, make_line
from sglang_diffusion_routing.core.work import Ticket, WorkSpec

pytestmark = pytest.mark.core

NEVER = float("inf")


def ticket(sequence: int, cost: float, due_at: float = NEVER) -> Ticket:
    spec = WorkSpec(cost_mpx_steps=cost)
    made = Ticket(spec, Asker(spec), 0.0, sequence)
    made.due_at = due_at
    return made


def filled(order: Order, *tickets: Ticket) -> Line:
    line = make_line(order)
    for one in tickets:
        line.add(one)
    return line


def drained(line: Line, given_out: float = 0.0) -> list[int]:
    """Take one after the other; give their sequences."""
    taken = []
    while line:
        head = line.head(given_out)
        line.remove(head)
        taken.append(head.sequence)
    return taken


def test_by_arrival_the_length_is_no_matter() -> None:
    assert drained(filled(Order.ARRIVAL, ticket(1, 5.0), ticket(2, 9.0), ticket(3, 1.0))) == [1, 2, 3]


def test_a_ticket_that_comes_from_another_line_stands_where_it_would_have_stood() -> None:
    line = filled(Order.ARRIVAL, ticket(1, 1.0), ticket(4, 1.0), ticket(3, 1.0), ticket(2, 1.0))
    assert [one.sequence for one in line] == [1, 2, 3, 4]
    line.add(ticket(0, 1.0))
    assert drained(line) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("order", [Order.LONGEST, Order.LONGEST_AGED])
def test_the_longest_is_next_and_of_equals_the_one_that_came_first(order: Order) -> None:
    tickets = (ticket(1, 5.0), ticket(2, 9.0), ticket(3, 5.0), ticket(4, 9.0), ticket(5, 1.0))
    assert drained(filled(order, *tickets)) == [2, 4, 1, 3, 5]


def test_whoever_is_overdue_goes_before_the_longest_and_the_most_overdue_first() -> None:
    tickets = (ticket(1, 1.0, due_at=8.0), ticket(2, 9.0), ticket(3, 1.0, due_at=4.0), ticket(4, 2.0, due_at=12.0))
    assert drained(filled(Order.LONGEST_AGED, *tickets), given_out=8.0) == [3, 1, 2, 4]
    assert drained(filled(Order.LONGEST, *tickets), given_out=8.0) == [2, 4, 1, 3]


@pytest.mark.parametrize("order", Order)
def test_the_place_of_the_head_is_the_lowest(order: Order) -> None:
    tickets = [ticket(1, 1.0, due_at=8.0), ticket(2, 9.0), ticket(3, 1.0, due_at=4.0), ticket(4, 9.0)]
    line = filled(order, *tickets)
    # By arrival, tickets of the same priority do not age.
    for given_out in (-NEVER,) if order is Order.ARRIVAL else (0.0, 4.0, 8.0):
        head = line.head(given_out)
        assert head is min(tickets, key=lambda one: (line.place(one, given_out), one.sequence))


@pytest.mark.parametrize("order", Order)
@given(data=st.data())
def test_a_line_holds_what_was_put_in_and_not_taken_out(order: Order, data: st.DataObject) -> None:
    line = make_line(order)
    inside: list[Ticket] = []
    for sequence in range(data.draw(st.integers(1, 25))):
        if inside and data.draw(st.booleans()):
            left = inside.pop(data.draw(st.integers(0, len(inside) - 1)))
            line.remove(left)
        else:
            one = ticket(sequence, data.draw(st.sampled_from([1.0, 2.0, 3.0])), data.draw(st.floats(0.0, 9.0)))
            inside.append(one)
            line.add(one)
        assert (list(line), len(line), bool(line)) == (inside, len(inside), bool(inside))
        limit = data.draw(st.sampled_from([0.5, 1.0, 2.5, 9.0]))
        fits = [one for one in inside if one.spec.cost_mpx_steps <= limit]
        expected = max(fits, key=lambda one: (one.spec.cost_mpx_steps, -one.sequence), default=None)
        assert line.longest_within(limit) is expected


@given(costs=st.lists(st.sampled_from([1.0, 2.0, 10.0, 50.0]), min_size=1, max_size=40), data=st.data())
def test_nobody_waits_for_more_than_twice_the_work_of_arrival_order_and_two_pieces(
    costs: list[float], data: st.DataObject
) -> None:
    """Pieces arrive while others are given out; each is given out before it has waited for its double."""
    line = make_line(Order.LONGEST_AGED)
    given_out = waiting = 0.0
    ahead: dict[int, tuple[float, float]] = {}

    def give_out() -> None:
        nonlocal given_out, waiting
        head = line.head(given_out)
        began, before = ahead[head.sequence]
        assert given_out - began <= PATIENCE * (before + head.spec.cost_mpx_steps) + 2 * max(costs)
        line.remove(head)
        given_out += head.spec.cost_mpx_steps
        waiting -= head.spec.cost_mpx_steps

    for sequence, cost in enumerate(costs):
        ahead[sequence] = (given_out, waiting)
        line.add(ticket(sequence, cost, due_at=given_out + PATIENCE * (waiting + cost)))
        waiting += cost
        while line and data.draw(st.booleans()):
            give_out()
    while line:
        give_out()
