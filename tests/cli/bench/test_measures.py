"""Tests of a benchmark's figures."""

import pytest

from sglang_diffusion_routing.cli.bench.load import Load, Outcome
from sglang_diffusion_routing.cli.bench.measures import (
    Serving,
    fairness,
    lower_bound_s,
    percentile,
    reasons,
    serving,
)

pytestmark = pytest.mark.core

OUTCOMES = (
    Outcome(1.0, 2, 100, peak_memory_mb=1000.0),
    Outcome(2.0, 2, 100),
    Outcome(3.0, 2, 100, peak_memory_mb=3000.0),
    Outcome(0.1, 0, 9, error="503: asleep"),
)


def test_a_load_is_summed_up_under_the_names_of_sglang() -> None:
    assert serving(Load(OUTCOMES, seconds=4.0, began_s=0.0), slo_s=2.0) == Serving(
        duration=4.0,
        completed_requests=3,
        completed_outputs=6,
        failed_requests=1,
        throughput_qps=0.75,
        output_throughput_ops=1.5,
        latency_mean=2.0,
        latency_median=2.0,
        latency_p50=2.0,
        latency_p90=pytest.approx(2.8),
        latency_p95=pytest.approx(2.9),
        latency_p99=pytest.approx(2.98),
        peak_memory_mb_max=3000.0,
        peak_memory_mb_mean=2000.0,
        peak_memory_mb_median=2000.0,
        received_bytes=309,
        slo_attainment_rate=0.5,
        slo_met_success=2,
    )


def test_a_quick_failure_neither_meets_the_slo_nor_shortens_a_latency() -> None:
    figures = serving(Load(OUTCOMES[3:], seconds=1.0, began_s=0.0), slo_s=2.0)
    assert (figures.slo_attainment_rate, figures.slo_met_success, figures.latency_p50) == (0.0, 0, 0.0)


def test_without_an_slo_there_is_no_attainment() -> None:
    figures = serving(Load(OUTCOMES, seconds=4.0, began_s=0.0), slo_s=None)
    assert (figures.slo_attainment_rate, figures.slo_met_success) == (None, None)


def test_failures_are_counted_by_reason_the_most_frequent_first() -> None:
    late, refused = Outcome(1, 0, 0, "late"), Outcome(1, 0, 0, "refused")
    assert list(reasons(Load((late, refused, refused, OUTCOMES[0]), 1.0, 0.0)).items()) == [("refused", 2), ("late", 1)]


def test_a_percentile_of_nothing_is_0() -> None:
    assert percentile([], 99) == 0.0


@pytest.mark.parametrize(
    ("pieces_s", "speeds", "bound_s"),
    [
        ([1.0] * 16, [1.0] * 8, 2.0),
        ([1.0] * 13, [1.0] * 5 + [0.5] * 3, 2.0),
        ([10.0, 1.0], [1.0, 1.0], 10.0),
        ([10.0, 1.0], [2.0, 0.2], 5.0),
    ],
)
def test_the_lower_bound_is_all_work_over_all_speeds_or_the_longest_piece(
    pieces_s: list[float], speeds: list[float], bound_s: float
) -> None:
    assert lower_bound_s(pieces_s, speeds) == pytest.approx(bound_s)


@pytest.mark.parametrize(
    ("busy_s", "index"), [([2.0, 2.0], 1.0), ([1.0, 0.0, 0.0, 0.0], 0.25), ([1.0, 3.0], 0.8), ([0.0, 0.0], 1.0)]
)
def test_fairness_is_jains_index(busy_s: list[float], index: float) -> None:
    assert fairness(busy_s) == pytest.approx(index)
