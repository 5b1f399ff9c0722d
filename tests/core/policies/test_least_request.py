"""The worker with the least work."""

import pytest

from core.policies.rooms import Rooms

pytestmark = pytest.mark.core


class NoChance:
    def random(self) -> float:
        raise AssertionError("least-request leaves nothing to chance")


def rooms(**loads: int) -> Rooms:
    made = Rooms("least-request", NoChance())
    for name, load in loads.items():
        made.enter(name, load)
    return made


def test_the_least_loaded_is_chosen() -> None:
    assert [rooms(a=2, b=0, c=1).choose(), rooms(a=2, b=3, c=1).choose()] == ["b", "c"]


def test_idle_workers_take_turns() -> None:
    its = rooms(a=0, b=0, c=0)
    turns = []
    for _ in range(6):
        turns.append(its.choose())
        its.end(turns[-1])
    assert turns == ["a", "b", "c", "a", "b", "c"]


def test_a_tie_goes_to_who_has_waited_longest() -> None:
    its = rooms(a=0, b=0)
    assert [its.choose(), its.choose()] == ["a", "b"]
    its.end("b")
    its.end("a")
    assert its.choose() == "b"


def test_of_two_with_one_piece_each_who_began_first_is_chosen() -> None:
    its = rooms(a=0, b=0)
    assert [its.choose() for _ in range(4)] == ["a", "b", "a", "b"]


def test_who_is_to_be_avoided_is_passed_over_for_the_next_best() -> None:
    assert rooms(a=0, b=5, c=1).choose("a") == "c"
