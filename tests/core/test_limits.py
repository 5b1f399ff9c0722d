"""Caps."""

import pytest

from core.fleet import url, worker_id
from sglang_diffusion_routing.core.limits import NO_CAP, SchedulerLimits
from sglang_diffusion_routing.core.worker import Worker

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("everybodys", "own", "cap"), [(2, None, 2), (2, 5, 5), (2, 0, NO_CAP), (0, None, NO_CAP), (0, 3, 3)]
)
def test_a_workers_own_cap_counts_before_everybodys_and_0_is_none(everybodys: int, own: int | None, cap: int) -> None:
    worker = Worker(worker_id("a"), url("a"), 1, registered_s=0.0, max_concurrency=own)
    assert SchedulerLimits(max_concurrency=everybodys).cap_of(worker) == cap
