"""Lay out who worked when: a Gantt chart of the workers, one panel a policy, as boxes, lines and labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

WIDTH_PX, MARGIN_PX, NAMES_PX = 1200, 16, 56
TITLE_PX, ROW_PX, GAP_PX, AXIS_PX = 24, 14, 18, 22
TICKS = 8

Colour = tuple[int, int, int]
SHORT, LONG = (120, 190, 235), (200, 70, 60)
INK, FAINT, IDLE, BOUND = (35, 40, 50), (130, 138, 150), (238, 240, 243), (20, 120, 60)


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of work on a worker, which is given by its number.

    Times are seconds since the batch began. work_s: how long it would take at speed 1; its colour follows from it.
    """

    worker: int
    began_s: float
    ended_s: float
    work_s: float


@dataclass(frozen=True, slots=True)
class Panel:
    """What one policy did with `workers` workers."""

    title: str
    workers: int
    spans: Sequence[Span]
    bound_s: float


@dataclass(frozen=True, slots=True)
class Box:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    colour: Colour


@dataclass(frozen=True, slots=True)
class Label:
    """Text, whose upper left corner is at x and y."""

    x: float
    y: float
    text: str
    colour: Colour
    size: int = 12


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture: everything in it, in the order of painting; sizes are in pixels."""

    width: int
    height: int
    boxes: tuple[Box, ...]
    labels: tuple[Label, ...]


def chart(title: str, panels: Sequence[Panel]) -> Chart:
    """Lay panels out one below the other, on the same axis of time."""
    end_s = max([panel.bound_s for panel in panels] + [span.ended_s for panel in panels for span in panel.spans])
    per_s = (WIDTH_PX - 2 * MARGIN_PX - NAMES_PX) / end_s
    works = [span.work_s for panel in panels for span in panel.spans]
    boxes: list[Box] = []
    labels = [Label(MARGIN_PX, MARGIN_PX, title, INK, 16)]
    y = float(MARGIN_PX + 2 * TITLE_PX)
    for panel in panels:
        _add(panel, y, per_s, (min(works, default=1.0), max(works, default=1.0)), boxes, labels)
        y += TITLE_PX + panel.workers * ROW_PX + GAP_PX
    left = MARGIN_PX + NAMES_PX
    for tick in range(TICKS + 1):
        at_s = end_s * tick / TICKS
        boxes.append(Box(left + at_s * per_s, y - 4, 1, 4, FAINT))
        labels.append(Label(left + at_s * per_s - (24 if tick == TICKS else 0), y + 2, f"{at_s:.4g} s", FAINT, 11))
    return Chart(WIDTH_PX, int(y) + AXIS_PX + MARGIN_PX, tuple(boxes), tuple(labels))


def _add(
    panel: Panel, y: float, per_s: float, works: tuple[float, float], boxes: list[Box], labels: list[Label]
) -> None:
    """Draw one panel, whose upper edge is at y."""
    left = MARGIN_PX + NAMES_PX
    labels.append(Label(MARGIN_PX, y, panel.title, INK, 13))
    top = y + TITLE_PX
    for worker in range(panel.workers):
        row = top + worker * ROW_PX
        labels.append(Label(MARGIN_PX, row, f"worker {worker + 1}", FAINT, 10))
        boxes.append(Box(left, row, WIDTH_PX - MARGIN_PX - left, ROW_PX - 2, IDLE))
    for span in panel.spans:
        # A pixel's gap shows where one piece ends, as long as there is room for it.
        width = max((span.ended_s - span.began_s) * per_s - 1, 0.5)
        row = top + span.worker * ROW_PX
        boxes.append(Box(left + span.began_s * per_s, row, width, ROW_PX - 2, colour(span.work_s, *works)))
    boxes.append(Box(left + panel.bound_s * per_s, top - 3, 1.5, panel.workers * ROW_PX + 4, BOUND))


def colour(work_s: float, least_s: float, most_s: float) -> Colour:
    """Give a colour between that of the shortest and that of the longest work, by its logarithm."""
    share = log(work_s / least_s) / log(most_s / least_s) if least_s < most_s and work_s > 0 else 0.0
    share = min(max(share, 0.0), 1.0)
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(SHORT, LONG, strict=True))
    return red, green, blue
