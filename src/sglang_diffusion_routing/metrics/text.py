"""Write samples in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from typing_extensions import override

from sglang_diffusion_routing.metrics.histogram import Distribution
from sglang_diffusion_routing.metrics.kinds import Declared, Kind, Samples

CONTENT_TYPE = CONTENT_TYPE_LATEST

PROCESS = ProcessCollector(registry=None)
"""`process_*`, as every Prometheus client has them: processor time, memory, open files. It reads /proc."""


class _SnapshotCollector(Collector):
    """Hands samples that were taken before to Prometheus's writer."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    @override
    def collect(self) -> Iterator[Metric]:
        for declared, rows in self._samples.items():
            if declared.kind is Kind.HISTOGRAM:
                histogram = HistogramMetricFamily(declared.name, declared.meaning, labels=declared.labels)
                for values, sizes in rows:
                    assert isinstance(sizes, Distribution), declared.name
                    histogram.add_metric(values, _buckets(sizes), sizes.total)
                yield histogram
            else:
                family = _family(declared)
                for values, number in rows:
                    assert not isinstance(number, Distribution), declared.name
                    family.add_metric(values, number)
                yield family


def _family(declared: Declared) -> GaugeMetricFamily | CounterMetricFamily:
    family = GaugeMetricFamily if declared.kind is Kind.GAUGE else CounterMetricFamily
    return family(declared.name, declared.meaning, labels=declared.labels)


def _buckets(sizes: Distribution) -> list[tuple[str, float]]:
    """Give each bound with the number of sizes up to it, as Prometheus has buckets."""
    bounds = [*map(floatToGoString, sizes.bounds), "+Inf"]
    return list(zip(bounds, map(float, accumulate(sizes.counts)), strict=True))


def render(samples: Samples, *others: Collector) -> bytes:
    """Write `samples`, and what `others` collect, in the text format of Prometheus.

    It takes 4 us for each line: call it in a thread.
    """
    registry = CollectorRegistry(auto_describe=False)
    for collector in (_SnapshotCollector(samples), *others):
        registry.register(collector)
    return generate_latest(registry)
