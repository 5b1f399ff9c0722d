"""Counting requests, their bytes and their times."""

import pytest

from sglang_diffusion_routing.core.work import Lease, WorkSpec
from sglang_diffusion_routing.core.worker import Worker, WorkerId, WorkerUrl
from sglang_diffusion_routing.metrics.histogram import WORK_S, Distribution
from sglang_diffusion_routing.proxy.counters import DataPlaneCounters, RouteCounts

pytestmark = pytest.mark.core

WORKER = Worker(WorkerId("http://w:1"), WorkerUrl("http", "w", 1), 1, 0.0)


def ended(granted_s: float, ended_s: float, done_s: float | None = None) -> Lease:
    lease = Lease(1, WORKER, WorkSpec(), granted_s, 0.0)
    lease.ended_s, lease.done_s = ended_s, done_s
    return lease


def sizes(*seconds: float) -> Distribution:
    """Give the distribution of these, found the long way."""
    counts = [0] * (len(WORK_S) + 1)
    for one in seconds:
        counts[sum(one > bound for bound in WORK_S)] += 1
    return Distribution(WORK_S, tuple(counts), pytest.approx(sum(seconds)))


def test_a_request_counts_for_its_route_its_class_and_its_bytes() -> None:
    counters = DataPlaneCounters()
    counters.count("rollout", 200, 10, 1000)
    counters.count("rollout", 503, 20, 200)
    counters.count("videos", 0, 30, 0)
    assert {route: counts.statuses for route, counts in counters.routes.items()} == {
        "rollout": [0, 0, 1, 0, 0, 1, 0, 0, 0, 0],
        "videos": [1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    }
    assert (counters.bytes_to_workers, counters.bytes_to_clients) == (60, 1200)
    assert not any(counts.has_times for counts in counters.routes.values())


@pytest.mark.parametrize(
    ("done_s", "generated_s", "relayed_s"),
    [(13.5, 12.0, 0.25), (None, 12.25, 0.25)],
    ids=["until a sized reply begins", "until any other has ended"],
)
def test_work_that_is_done_counts_in_each_of_its_phases(
    done_s: float | None, generated_s: float, relayed_s: float
) -> None:
    counters = DataPlaneCounters()
    counters.done("rollout", 200, 10, 1000, 1.0, 0.5, 13.5, ended(1.5, 13.75, done_s))
    assert counters.routes["rollout"].read() == (sizes(0.5), sizes(12.5), sizes(generated_s), sizes(relayed_s))
    assert (counters.routes["rollout"].statuses[2], counters.bytes_to_workers, counters.bytes_to_clients) == (
        1,
        10,
        1000,
    )
    assert counters.routes["rollout"].has_times


@pytest.mark.parametrize("ms", [0, 1, 4])
def test_quick_work_counts_at_the_first_bound_in_every_phase_and_is_all_generation(ms: int) -> None:
    counters, end_s = DataPlaneCounters(), 100.0 + ms / 1000
    for _ in range(3):
        counters.done("rollout", 200, 0, 0, 100.0, 0.0, end_s - ms / 4000, ended(100.0, end_s))
    all_s = sizes(*[ms / 1000] * 3)
    assert counters.routes["rollout"].read() == (sizes(0, 0, 0), all_s, all_s, sizes(0, 0, 0))


def test_work_beyond_the_first_bound_is_looked_at_phase_by_phase() -> None:
    counters = DataPlaneCounters()
    counters.done("rollout", 200, 0, 0, 100.0, 0.0, 100.004, ended(100.0, 100.006))
    assert counters.routes["rollout"].read() == (sizes(0), sizes(0.004), sizes(0.006), sizes(0.002))


def test_nothing_that_was_counted_has_no_times() -> None:
    assert not RouteCounts().has_times
