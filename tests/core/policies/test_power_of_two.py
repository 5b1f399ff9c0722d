"""The better of two workers."""

import random

import pytest

from core.policies.rooms import Rooms
from sglang_diffusion_routing.core.policies import Chance

pytestmark = pytest.mark.core


class Drawn:
    """Chance that was settled before."""

    def __init__(self, *numbers: float) -> None:
        self._numbers = list(numbers)

    def random(self) -> float:
        return self._numbers.pop(0)


def rooms(rng: Chance, **loads: int) -> Rooms:
    made = Rooms("power-of-two", rng)
    for name, load in loads.items():
        made.enter(name, load)
    return made


@pytest.mark.parametrize(
    ("first", "second", "chosen"),
    [(0.0, 0.0, "b"), (0.0, 0.5, "a"), (0.0, 0.99, "a"), (0.99, 0.0, "a"), (0.99, 0.99, "d"), (0.5, 0.5, "b")],
)
def test_the_less_loaded_of_two_different_workers_is_chosen_and_the_first_drawn_of_equals(
    first: float, second: float, chosen: str
) -> None:
    assert rooms(Drawn(first, second), a=3, b=1, c=5, d=5).choose() == chosen


def test_a_single_worker_needs_one_draw() -> None:
    assert rooms(Drawn(0.7), a=3).choose() == "a"


def test_the_most_loaded_worker_is_never_chosen() -> None:
    its = rooms(random.Random(3), a=9, b=0, c=0, d=0)
    assert {its.choose() for _ in range(20)} == {"b", "c", "d"}


def test_who_is_avoided_is_not_drawn() -> None:
    assert rooms(Drawn(0.0, 0.0), a=0, b=9, c=5).choose("a") == "c"
