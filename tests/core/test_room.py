"""A full queue is shared by weight."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.fleet import Asker, Fleet, worker_id
from sglang_diffusion_routing.core.limits import QueueLimits, SchedulerLimits
from sglang_diffusion_routing.core.room import OTHERS, Holding
from sglang_diffusion_routing.core.work import WorkSpec
from sglang_diffusion_routing.errors import QueueFull

pytestmark = pytest.mark.core


def full_fleet(max_requests: int = 6, max_bytes: int = 1_000, **weights: float) -> Fleet:
    """A fleet whose only worker has work already."""
    limits = SchedulerLimits(QueueLimits(max_requests, max_bytes), 1, ramp=False, weights=weights)
    fleet = Fleet(limits)
    fleet.add("w")
    fleet.ask()
    return fleet


def work(tenant: str, size_bytes: int = 0, *avoid: str) -> WorkSpec:
    return WorkSpec(tenant=tenant, size_bytes=size_bytes, avoid=frozenset(map(worker_id, avoid)))


def waiting(asked: list[Asker]) -> str:
    return "".join(asker.spec.tenant for asker in asked if asker.waits)


def test_who_has_less_than_a_share_pushes_out_what_came_last_of_who_has_most() -> None:
    fleet = full_fleet()
    flood = [fleet.ask(work("a")) for _ in range(6)]
    late = [fleet.ask(work("b")) for _ in range(4)]
    assert [asker.waits for asker in flood] == [True] * 3 + [False] * 3
    assert [asker.waits for asker in late] == [True] * 3 + [False]
    assert [type(asker.error) for asker in (*flood[3:], late[3])] == [QueueFull] * 4
    assert flood[5].error is not None
    assert flood[5].error.retry_after_s == 1
    assert fleet.scheduler.queued == 6


def test_one_tenant_alone_is_turned_away_as_ever() -> None:
    fleet = full_fleet()
    asked = [fleet.ask(work("a")) for _ in range(8)]
    assert waiting(asked) == "aaaaaa"
    assert [type(asker.error) for asker in asked[6:]] == [QueueFull] * 2


def test_weights_are_parts_of_the_queue() -> None:
    fleet = full_fleet(8, a=3.0)
    asked = [fleet.ask(work("b")) for _ in range(8)] + [fleet.ask(work("a")) for _ in range(8)]
    assert Counter(waiting(asked)) == {"a": 6, "b": 2}


def test_bytes_are_shared_as_requests_are_and_as_many_go_as_are_needed() -> None:
    fleet = full_fleet(100, 12)
    small = [fleet.ask(work("a", 3)) for _ in range(4)]
    large = fleet.ask(work("b", 6))
    assert [asker.waits for asker in (*small, large)] == [True, True, False, False, True]
    assert fleet.scheduler.queued_bytes == 12
    assert not fleet.ask(work("b", 1)).waits


def test_work_that_a_worker_failed_is_never_pushed_out() -> None:
    fleet = full_fleet(4)
    retries = [fleet.ask(work("a", 0, "x")) for _ in range(3)]
    fresh = fleet.ask(work("a"))
    late = [fleet.ask(work("b")) for _ in range(2)]
    assert [asker.waits for asker in (*retries, fresh, *late)] == [True, True, True, False, True, False]


def test_nobody_goes_for_what_would_not_fit_all_the_same() -> None:
    fleet = full_fleet(4)
    asked = [fleet.ask(work("a"))] + [fleet.ask(work("a", 0, "x")) for _ in range(4)]
    late = fleet.ask(work("b"))
    assert (waiting(asked), type(late.error)) == ("aaaaa", QueueFull)


def test_nobody_goes_who_has_no_more_than_a_share() -> None:
    fleet = full_fleet(4)
    asked = [fleet.ask(work("c"))] + [fleet.ask(work("a", 0, "x")) for _ in range(3)]
    late = fleet.ask(work("b"))
    assert (waiting(asked), type(late.error)) == ("caaa", QueueFull)


def test_a_version_too_many_is_not_let_in_at_the_expense_of_others() -> None:
    limits = SchedulerLimits(QueueLimits(2, max_demands=1), 1, ramp=False)
    fleet = Fleet(limits)
    fleet.add("w")
    fleet.ask()
    asked = [fleet.ask(WorkSpec(tenant="a", min_version="0")) for _ in range(2)]
    late = fleet.ask(WorkSpec(tenant="b", min_version="v9"))
    assert (waiting(asked), type(late.error)) == ("aa", QueueFull)


def test_tenants_beyond_the_largest_number_are_one() -> None:
    limits = SchedulerLimits(QueueLimits(max_requests=12, max_tenants=2), 1, ramp=False)
    fleet = Fleet(limits)
    fleet.add("w")
    fleet.ask()
    asked = [fleet.ask(work(name)) for name in "abcdcd"]
    assert fleet.scheduler.most_queued(9) == [
        Holding(OTHERS, 4, 0, 1.0),
        Holding("a", 1, 0, 1.0),
        Holding("b", 1, 0, 1.0),
    ]
    running = fleet.scheduler.leases_of(worker_id("w"))[0]
    first = Asker(running.spec)
    first.lease = running
    order = []
    while first.lease is not None and first.lease.live:
        fleet.end(first)
        first = next((asker for asker in asked if asker.lease is not None and asker.lease.live), first)
        order.append(first.spec.tenant)
    assert order[:3] == ["a", "b", "c"]
    assert fleet.scheduler.most_queued(9) == []


def test_only_those_with_most_are_shown() -> None:
    fleet = full_fleet(100, b=2.0)
    for name in "abbccc":
        fleet.ask(work(name, 5))
    assert fleet.scheduler.most_queued(2) == [Holding("c", 3, 15, 1.0), Holding("b", 2, 10, 2.0)]


STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6), st.booleans()), max_size=60)


@settings(deadline=None)
@given(STEPS, st.integers(1, 8), st.integers(1, 20))
def test_whoever_is_within_its_share_gets_in_and_nobody_below_its_share_goes(
    steps: list[tuple[str, int, bool]], max_requests: int, max_bytes: int
) -> None:
    weights = {"a": 2.0, "b": 1.0, "c": 0.5}
    fleet = full_fleet(max_requests, max_bytes, **weights)
    asked: list[Asker] = []
    for tenant, size, leaves in steps:
        there = [asker for asker in asked if asker.waits]
        if leaves and there:
            ticket = there[0].ticket
            assert ticket is not None
            fleet.scheduler.abandon(ticket)
            there[0].answers += 1
            continue
        count, size_bytes = Counter(a.spec.tenant for a in there), Counter[str]()
        for asker in there:
            size_bytes[asker.spec.tenant] += asker.spec.size_bytes
        total = sum(weights[name] for name in {*count, tenant})
        newcomer = fleet.ask(work(tenant, size))
        gone = [asker for asker in there if not asker.waits]
        asked.append(newcomer)
        many = len(there) + 1 > max_requests
        large = size_bytes.total() + size > max_bytes
        share = weights[tenant] / total
        right = not (many and count[tenant] + 1 > max_requests * share)
        right = right and not (large and size_bytes[tenant] + size > max_bytes * share)
        assert newcomer.waits is right
        if not (many or large) or not right:
            assert not gone
        for asker in gone:
            name = asker.spec.tenant
            above = weights[name] / total
            assert name != tenant
            assert (many and count[name] > max_requests * above) or (large and size_bytes[name] > max_bytes * above)
            newer = [one for one in there if one.spec.tenant == name and there.index(one) > there.index(asker)]
            assert not any(one.waits for one in newer), "the newest goes first"
        now = [asker for asker in asked if asker.waits]
        assert len(now) <= max_requests
        assert sum(asker.spec.size_bytes for asker in now) <= max_bytes
