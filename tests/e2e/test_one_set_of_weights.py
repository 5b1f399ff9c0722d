"""The fleet is always on one set of weights, whatever happens to it: random schedules, every sample judged.

A schedule that fails prints its seed, its steps and how to play it alone.
"""

import asyncio
from collections.abc import Iterator

import pytest

from support.nursery import Nursery
from support.play import Report
from support.schedules import play_all

SCHEDULES = 200
BATCH = 40
UNFENCED = 10

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


def played(nursery: Nursery, seeds: range, program: str = "router") -> list[Report]:
    """Play on asyncio's own loop: under uvloop anyio trips over connections whose peer dies as they are made."""
    return asyncio.run(play_all(nursery, seeds, program))


@pytest.mark.parametrize("first", range(0, SCHEDULES, BATCH))
def test_no_sample_is_made_on_weights_that_the_trainer_has_left_behind(nursery: Nursery, first: int) -> None:
    reports = played(nursery, range(first, first + BATCH))
    failed = [str(report) for report in reports if report.faults]
    assert not failed, "\n\n".join(failed)
    assert sum(report.statuses["200"] for report in reports) > 20 * BATCH


def test_without_the_fence_the_same_schedules_make_such_samples(nursery: Nursery) -> None:
    reports = played(nursery, range(UNFENCED), "unfenced")
    assert sum(bool(report.violations) for report in reports) >= UNFENCED // 2, "\n\n".join(map(str, reports))
