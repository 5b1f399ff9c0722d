"""Any worker."""

import pytest

from core.policies.rooms import Rooms

pytestmark = pytest.mark.core


class Drawn:
    """Chance that was settled before."""

    def __init__(self, *numbers: float) -> None:
        self._numbers = list(numbers)

    def random(self) -> float:
        return self._numbers.pop(0)


def rooms(*numbers: float) -> Rooms:
    made = Rooms("random", Drawn(*numbers))
    for name in "abcd":
        made.enter(name)
    return made


def test_every_worker_has_the_same_share_of_the_line_from_0_to_1() -> None:
    its = rooms(0.0, 0.2499, 0.25, 0.5, 0.75, 0.9999)
    assert [its.choose() for _ in range(6)] == ["a", "a", "b", "c", "d", "d"]


def test_the_share_of_who_is_avoided_goes_to_the_others_alike() -> None:
    its = rooms(0.0, 0.34, 0.67)
    assert [its.choose("b") for _ in range(3)] == ["a", "c", "d"]
