"""The figures of a run, from the outcomes of its requests and the work of its workers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sglang_diffusion_routing.cli.bench.load import Load


@dataclass(frozen=True, slots=True)
class Serving:
    """What a load came to. The fields that SGLang's bench_serving has too bear its names.

    duration and latencies are in seconds, throughput_qps in requests and output_throughput_ops in outputs a second.
    Latencies are those of the requests that succeeded; 0 when none did. Peaks of memory are those that workers tell of
    images and videos; 0 when none does. An SLO is met by a request that succeeds within it; its rate is the share of
    all requests sent. Both are None without one.
    """

    duration: float
    completed_requests: int
    completed_outputs: int
    failed_requests: int
    throughput_qps: float
    output_throughput_ops: float
    latency_mean: float
    latency_median: float
    latency_p50: float
    latency_p90: float
    latency_p95: float
    latency_p99: float
    peak_memory_mb_max: float
    peak_memory_mb_mean: float
    peak_memory_mb_median: float
    received_bytes: int
    slo_attainment_rate: float | None
    slo_met_success: int | None


def serving(load: Load, slo_s: float | None) -> Serving:
    """Sum a load up."""
    good = [outcome for outcome in load.outcomes if not outcome.error]
    latencies = [outcome.seconds for outcome in good]
    outputs = sum(outcome.outputs for outcome in good)
    peaks = [outcome.peak_memory_mb for outcome in good if outcome.peak_memory_mb > 0]
    met = None if slo_s is None else sum(seconds <= slo_s for seconds in latencies)
    p50, p90, p95, p99 = (percentile(latencies, share) for share in (50, 90, 95, 99))
    return Serving(
        duration=load.seconds,
        completed_requests=len(good),
        completed_outputs=outputs,
        failed_requests=len(load.outcomes) - len(good),
        throughput_qps=len(good) / load.seconds if load.seconds else 0.0,
        output_throughput_ops=outputs / load.seconds if load.seconds else 0.0,
        latency_mean=sum(latencies) / len(latencies) if latencies else 0.0,
        latency_median=p50,
        latency_p50=p50,
        latency_p90=p90,
        latency_p95=p95,
        latency_p99=p99,
        peak_memory_mb_max=max(peaks, default=0.0),
        peak_memory_mb_mean=sum(peaks) / len(peaks) if peaks else 0.0,
        peak_memory_mb_median=percentile(peaks, 50),
        received_bytes=sum(outcome.received_bytes for outcome in load.outcomes),
        slo_attainment_rate=None if met is None else met / max(len(load.outcomes), 1),
        slo_met_success=met,
    )


def reasons(load: Load) -> dict[str, int]:
    """Count why requests failed, the most frequent first."""
    return dict(Counter(outcome.error for outcome in load.outcomes if outcome.error).most_common())


def percentile(values: Sequence[float], share: float) -> float:
    """Give a percentile as numpy interpolates it; 0 of nothing, as SGLang's bench_serving has it."""
    return float(np.percentile(values, share)) if values else 0.0


def lower_bound_s(pieces_s: Sequence[float], speeds: Sequence[float]) -> float:
    """Give the seconds below which no schedule of a batch can end.

    It is the larger of two: all work over all speeds, and the longest piece on the fastest worker. That every piece
    must run on one worker, whole, is not counted, nor is the way of a byte, so that even the best schedule may be
    somewhat above it.

    Args:
        pieces_s: seconds of each piece on a worker of speed 1.
    """
    return max(sum(pieces_s) / sum(speeds), max(pieces_s) / max(speeds))


def fairness(busy_s: Sequence[float]) -> float:
    """Give Jain's index of the workers' busy time: (Σx)² / (n·Σx²), from 1/n (one does all) to 1 (all do as much).

    Busy time is work over speed, so that a worker of half the speed has its fair share with half the work.
    (R. Jain, D. Chiu, W. Hawe, "A Quantitative Measure of Fairness", DEC TR-301, 1984.)
    """
    squares = sum(value * value for value in busy_s)
    return sum(busy_s) ** 2 / (len(busy_s) * squares) if squares else 1.0
