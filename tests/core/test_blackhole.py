"""Workers that swallow work."""

import pytest

from core.fleet import worker_id
from sglang_diffusion_routing.core.blackhole import BlackHoles

pytestmark = pytest.mark.core

A, B = worker_id("a"), worker_id("b")
IMAGES, VIDEOS = "images", "videos"


def failures(holes: BlackHoles, times: int, route: str = IMAGES) -> list[bool]:
    return [holes.note(A, route, ok=False) for _ in range(times)]


def test_the_fifth_failure_in_a_row_is_blamed_on_the_worker_if_another_succeeds() -> None:
    holes = BlackHoles()
    first = failures(holes, 2)
    holes.note(B, IMAGES, ok=True)
    assert first + failures(holes, 3) == [False, False, False, False, True]


def test_a_success_from_before_the_row_proves_nothing() -> None:
    holes = BlackHoles()
    holes.note(B, IMAGES, ok=True)
    assert failures(holes, 9) == [False] * 9


def test_what_fails_everywhere_is_nobodys_fault() -> None:
    holes = BlackHoles()
    both = [holes.note(worker, IMAGES, ok=False) for _ in range(9) for worker in (A, B)]
    assert both == [False] * 18


def test_a_success_of_its_own_ends_the_row() -> None:
    holes = BlackHoles()
    failures(holes, 4)
    holes.note(B, IMAGES, ok=True)
    holes.note(A, IMAGES, ok=True)
    holes.note(B, IMAGES, ok=True)
    assert failures(holes, 4) == [False] * 4


def test_routes_are_told_apart() -> None:
    holes = BlackHoles()
    failures(holes, 4)
    holes.note(B, VIDEOS, ok=True)
    holes.note(A, VIDEOS, ok=True)
    assert failures(holes, 3) == [False] * 3
    holes.note(B, IMAGES, ok=True)
    assert failures(holes, 1) == [True]


def test_once_accused_one_more_failure_is_enough_if_another_has_succeeded_since() -> None:
    holes = BlackHoles()
    failures(holes, 1)
    holes.note(B, IMAGES, ok=True)
    assert failures(holes, 5) == [False, False, False, True, False]
    holes.note(B, IMAGES, ok=True)
    assert failures(holes, 1) == [True]


def test_a_forgotten_worker_starts_anew() -> None:
    holes = BlackHoles()
    failures(holes, 4)
    holes.note(B, IMAGES, ok=True)
    holes.forget(A)
    holes.forget(A)
    holes.note(B, IMAGES, ok=True)
    assert failures(holes, 4) == [False] * 4


def test_nothing_is_kept_of_a_worker_that_does_well() -> None:
    holes = BlackHoles()
    failures(holes, 1)
    holes.note(A, IMAGES, ok=True)
    assert holes._streaks == {}
