"""What is remembered of groups, and for how long."""

import pytest

from core.fleet import Asker, worker_id
from sglang_diffusion_routing.core.groups import Groups
from sglang_diffusion_routing.core.work import Ticket, WorkSpec

pytestmark = pytest.mark.core

A, B = worker_id("a"), worker_id("b")


def ticket(name: str, sequence: int = 1) -> Ticket:
    spec = WorkSpec(group=name)
    return Ticket(spec, Asker(spec), 0.0, sequence)


def test_a_group_is_the_same_one_until_it_is_forgotten() -> None:
    groups = Groups(ttl_s=10.0)
    first = groups.join("g", 0.0)
    assert groups.join("g", 9.0) is first
    groups.granted("g", A, 9.0)
    groups.ended("g", 12.0)
    assert groups.join("g", 21.9) is groups["g"] is first
    assert groups.join("g", 22.0) is not first


def test_a_group_with_a_member_that_waits_or_runs_is_never_forgotten() -> None:
    groups, waits = Groups(ttl_s=10.0), ticket("waits")
    groups.join("waits", 0.0)
    groups.waits(waits)
    groups.granted("runs", A, 0.0)
    groups.join("idle", 0.0)
    groups.join("new", 1_000.0)
    assert len(groups) == 3
    assert groups["runs"].had == {A: 1}
    groups.waits_no_more(waits)
    groups.ended("runs", 1_000.0)
    groups.join("newer", 1_010.0)
    assert len(groups) == 1


def test_beyond_the_cap_the_longest_idle_go_first() -> None:
    groups = Groups(cap=3)
    for name in "abcd":
        groups.granted(name, A, 0.0)
    assert len(groups) == 4
    for now_s, name in enumerate("cab"):
        groups.ended(name, float(now_s))
    assert len(groups) == 3
    with pytest.raises(KeyError):
        groups["c"]
    groups.join("e", 3.0)
    with pytest.raises(KeyError):
        groups["a"]
    assert groups["b"].had == {A: 1}


def test_where_groups_are_kept_is_known_by_worker() -> None:
    groups = Groups(ttl_s=10.0)
    first, second = groups.join("first", 0.0), groups.join("second", 0.0)
    groups.keep(first, A)
    groups.keep(second, A)
    assert (list(groups.kept_on(A)), list(groups.kept_on(B)), list(groups.keepers())) == ([first, second], [], [A])
    groups.keep(first, B)
    groups.keep(second, None)
    assert (list(groups.kept_on(A)), list(groups.kept_on(B)), list(groups.keepers())) == ([], [first], [B])
    groups.join("third", 10.0)
    assert list(groups.keepers()) == []


def test_members_are_counted_by_worker() -> None:
    groups = Groups()
    for worker in (A, B, A):
        group = groups.granted("g", worker, 0.0)
    groups.ended("g", 1.0)
    assert (group.had, group.live) == ({A: 2, B: 1}, 2)
