"""The text format of Prometheus."""

import pytest

from sglang_diffusion_routing import metrics
from sglang_diffusion_routing.metrics.histogram import Distribution
from sglang_diffusion_routing.metrics.text import PROCESS, render

pytestmark = pytest.mark.core


def test_samples_are_written_in_prometheus_text_format() -> None:
    written = render(
        {
            metrics.LEASES: [((), 3)],
            metrics.PROBES: [(("succeeded",), 7), (('qu"ote',), 1)],
        }
    ).decode()
    assert written == (
        "# HELP sgld_router_leases live leases\n"
        "# TYPE sgld_router_leases gauge\n"
        "sgld_router_leases 3.0\n"
        "# HELP sgld_router_probes_total health probes by outcome\n"
        "# TYPE sgld_router_probes_total counter\n"
        'sgld_router_probes_total{outcome="succeeded"} 7.0\n'
        'sgld_router_probes_total{outcome="qu\\"ote"} 1.0\n'
    )


def test_the_buckets_of_a_histogram_hold_all_that_is_at_most_as_large() -> None:
    written = render({metrics.RELAY: [(("videos",), Distribution((0.5, 1.0), (3, 0, 2), 9.25))]}).decode()
    assert written.splitlines()[1:] == [
        "# TYPE sgld_router_relay_seconds histogram",
        'sgld_router_relay_seconds_bucket{le="0.5",route="videos"} 3.0',
        'sgld_router_relay_seconds_bucket{le="1.0",route="videos"} 3.0',
        'sgld_router_relay_seconds_bucket{le="+Inf",route="videos"} 5.0',
        'sgld_router_relay_seconds_count{route="videos"} 5.0',
        'sgld_router_relay_seconds_sum{route="videos"} 9.25',
    ]


def test_what_the_process_takes_is_told_beside_it() -> None:
    written = render({metrics.LEASES: [((), 3)]}, PROCESS).decode()
    assert "\nprocess_open_fds " in written
    assert "\nprocess_resident_memory_bytes " in written
