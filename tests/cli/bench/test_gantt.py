"""Tests of the chart's layout."""

import pytest

from sglang_diffusion_routing.cli.bench.gantt import BOUND, LONG, SHORT, Panel, Span, chart, colour

pytestmark = pytest.mark.core


def test_a_piece_of_work_is_a_box_as_long_as_its_time() -> None:
    spans = [Span(0, 0.0, 5.0, 5.0), Span(1, 5.0, 10.0, 2.5)]
    made = chart("two", [Panel("fair", 2, spans, 8.0)])
    left = {box.colour: box.x for box in made.boxes}
    width = {box.colour: box.width for box in made.boxes}
    whole = 1200 - 2 * 16 - 56
    assert (left[LONG], width[LONG]) == (16 + 56, whole / 2 - 1)
    assert (left[SHORT], width[SHORT]) == (16 + 56 + whole / 2, whole / 2 - 1)
    assert left[BOUND] == pytest.approx(16 + 56 + whole * 0.8)


def test_panels_share_one_axis_and_do_not_overlap() -> None:
    quick, slow = [Span(0, 0.0, 5.0, 1.0)], [Span(0, 0.0, 10.0, 1.0)]
    made = chart("two", [Panel("quick", 1, quick, 1.0), Panel("slow", 1, slow, 1.0)])
    first, second = (box for box in made.boxes if box.colour == SHORT)
    assert second.width + 1 == pytest.approx(2 * (first.width + 1))
    assert second.y > first.y + first.height
    assert max(box.y + box.height for box in made.boxes) < made.height


def test_a_run_in_which_nothing_was_done_can_be_drawn() -> None:
    assert [label.text for label in chart("none", [Panel("dead", 1, [], 1.0)]).labels][:3] == [
        "none",
        "dead",
        "worker 1",
    ]


@pytest.mark.parametrize(("work_s", "expected"), [(1.0, SHORT), (100.0, LONG), (10.0, (160, 130, 148))])
def test_work_is_coloured_by_its_logarithm(work_s: float, expected: tuple[int, int, int]) -> None:
    assert colour(work_s, 1.0, 100.0) == expected
