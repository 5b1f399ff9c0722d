"""Counting requests and their bytes."""

import pytest

from sglang_diffusion_routing.proxy.counters import DataPlaneCounters

pytestmark = pytest.mark.core


def test_a_request_counts_for_its_route_its_class_and_its_bytes() -> None:
    counters = DataPlaneCounters()
    counters.count("rollout", 200, 10, 1000)
    counters.count("rollout", 503, 20, 200)
    counters.count("videos", 0, 30, 0)
    assert dict(counters.requests) == {
        "rollout": [0, 0, 1, 0, 0, 1, 0, 0, 0, 0],
        "videos": [1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    }
    assert (counters.bytes_to_workers, counters.bytes_to_clients) == (60, 1200)
