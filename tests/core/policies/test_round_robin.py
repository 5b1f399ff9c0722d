"""One worker after the other."""

import random

import pytest

from core.policies.rooms import Rooms

pytestmark = pytest.mark.core


def rooms(cap: int = 0, **loads: int) -> Rooms:
    made = Rooms("round-robin", random.Random(0), cap)
    for name, load in loads.items():
        made.enter(name, load)
    return made


def test_workers_take_turns_whatever_their_load() -> None:
    its = rooms(a=7, b=0, c=3)
    assert [its.choose() for _ in range(7)] == ["a", "b", "c", "a", "b", "c", "a"]


def test_a_worker_that_was_full_rejoins_behind_the_others() -> None:
    its = rooms(cap=1, a=0, b=0, c=0)
    assert [its.choose(), its.choose()] == ["a", "b"]
    its.end("a")
    assert [its.choose(), its.choose()] == ["c", "a"]


def test_a_new_worker_joins_behind_the_others() -> None:
    its = rooms(a=0, b=0)
    its.choose()
    its.enter("c")
    assert [its.choose() for _ in range(3)] == ["b", "a", "c"]


def test_who_is_avoided_keeps_its_turn() -> None:
    its = rooms(a=0, b=0)
    assert [its.choose("a"), its.choose()] == ["b", "a"]
