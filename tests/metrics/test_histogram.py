"""Counting by size."""

import pytest

from sglang_diffusion_routing.metrics.histogram import LAG_S, WORK_S, Distribution, Histogram

pytestmark = pytest.mark.core


@pytest.mark.parametrize("bounds", [WORK_S, LAG_S])
def test_bounds_rise_and_begin_above_nothing(bounds: tuple[float, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))
    assert bounds[0] > 0


def test_a_size_counts_where_it_is_at_most_the_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    for size in (0.0, 1.0, 1.5, 2.0, 2.5, 100.0):
        histogram.observe(size)
    assert histogram.read() == Distribution((1.0, 2.0), (2, 2, 2), 107.0)


def test_what_was_counted_elsewhere_is_added_to_the_first() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.observe(1.5)
    assert histogram.read(3, 0.5) == Distribution((1.0, 2.0), (3, 1, 0), 2.0)


def test_what_was_read_does_not_change() -> None:
    histogram = Histogram((1.0,))
    before = histogram.read()
    histogram.observe(0.5)
    assert before == Distribution((1.0,), (0, 0), 0.0)
