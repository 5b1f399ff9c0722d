"""What a metric is: its name, how its number behaves, and the labels that tell its samples apart."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from sglang_diffusion_routing.metrics.histogram import Distribution


class Kind(Enum):
    """How a number behaves: a gauge goes both ways, a counter only up, a histogram counts by size."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Declared:
    """One metric: its name on the wire, what it says, and the labels that tell its samples apart."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()


Samples = Mapping[Declared, Iterable[tuple[tuple[str, ...], float | Distribution]]]
"""By metric: the values of its labels, in their declared order, and the number; of a histogram its distribution."""
