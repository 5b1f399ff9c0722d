"""The worker that will have finished first."""

import pytest

from core.policies.rooms import Rooms

pytestmark = pytest.mark.core


class NoChance:
    def random(self) -> float:
        raise AssertionError("least-work leaves nothing to chance")


def rooms(cap: int = 0, policy: str = "least-work", **speeds: float) -> Rooms:
    made = Rooms(policy, NoChance(), cap)
    for name, speed in speeds.items():
        made.enter(name, speed=speed)
    return made


@pytest.mark.parametrize("policy", ["least-work", "longest-first"])
def test_work_goes_where_it_will_be_finished_first(policy: str) -> None:
    its = rooms(policy=policy, slow=1.0, fast=4.0)
    # Finished after (work in flight + 4) / speed: in 1, 2 and 3 s on the fast one; then in 4 s on either.
    assert [its.choose(cost=4.0) for _ in range(5)] == ["fast", "fast", "fast", "slow", "fast"]


def test_large_work_in_flight_counts_as_such() -> None:
    its = rooms(a=1.0, b=1.0)
    assert [its.choose(cost=10.0), *(its.choose(cost=1.0) for _ in range(5))] == ["a", "b", "b", "b", "b", "b"]


def test_what_must_be_done_by_now_counts_no_more_and_nothing_counts_as_more_than_done() -> None:
    its = rooms(a=1.0, b=1.0)
    assert [its.choose(cost=10.0), its.choose(cost=4.0)] == ["a", "b"]
    its.now_s = 9.0
    # 1 is left on a, and nothing of b's 4, although its reply is not here yet: 2 s on b, and then 3 on a.
    assert [its.choose(cost=2.0), its.choose(cost=2.0)] == ["b", "a"]


def test_a_tie_goes_to_who_has_waited_longest() -> None:
    its = rooms(a=1.0, b=1.0)
    assert [its.choose(), its.choose(), its.choose(), its.choose()] == ["a", "b", "a", "b"]


def test_workers_of_which_nothing_is_known_are_equal() -> None:
    its = Rooms("least-work", NoChance())
    for name in "abc":
        its.enter(name)
    assert [its.choose() for _ in range(6)] == ["a", "b", "c", "a", "b", "c"]


def test_who_is_to_be_avoided_is_passed_over_for_the_next_best() -> None:
    assert rooms(fast=4.0, slow=1.0, middle=2.0).choose("fast") == "middle"


def test_a_job_goes_where_it_will_be_finished_first_full_or_not() -> None:
    its = rooms(cap=1, slow=1.0, fast=4.0)
    assert its.choose(cost=1.0) == "fast"
    assert its.choose(cost=4.0, job=True) == "fast"
    assert its.choose(cost=4.0, job=True) == "fast"
    assert its.choose("fast", cost=4.0, job=True) == "slow"


def test_a_fast_worker_with_some_work_is_found_behind_many_slow_ones_without() -> None:
    its = rooms(**{f"slow{number}": 0.01 for number in range(100)}, fast=100.0)
    assert its.choose(*(f"slow{number}" for number in range(100)), cost=1.0) == "fast"
    assert its.choose(cost=1.0) == "fast"
