"""Declare every metric, and write them for Prometheus.

Nothing is counted here: the hot path counts plain integers, and a scrape reads them. A label has few values by nature
(a status, a kind of route) or as many as there are workers; job ids, paths and models are never labels.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from typing_extensions import override

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Kind(Enum):
    """How a number behaves: a gauge goes both ways, a counter only up."""

    GAUGE = "gauge"
    COUNTER = "counter"


@dataclass(frozen=True, slots=True)
class Declared:
    """One metric: its name on the wire, what it says, and the labels that tell its samples apart."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()


WORKERS = Declared("sgld_router_workers", Kind.GAUGE, "registered workers by the status that is shown", ("status",))
WORKER_IN_FLIGHT = Declared(
    "sgld_router_worker_in_flight_requests", Kind.GAUGE, "leases that a worker holds, jobs included", ("worker",)
)
WORKER_SPEED = Declared(
    "sgld_router_worker_speed_mpx_steps_per_second",
    Kind.GAUGE,
    "learned speed of a worker, in megapixel-steps per second; absent before its first finished work",
    ("worker",),
)
WORKER_ROUTABLE = Declared("sgld_router_worker_routable", Kind.GAUGE, "1 when a worker may get work", ("worker",))
QUEUED = Declared("sgld_router_queue_requests", Kind.GAUGE, "requests that wait for a worker")
QUEUED_BYTES = Declared("sgld_router_queue_bytes", Kind.GAUGE, "bytes of heads and bodies that wait for a worker")
LEASES = Declared("sgld_router_leases", Kind.GAUGE, "live leases")
LEASES_ENDED = Declared("sgld_router_leases_ended_total", Kind.COUNTER, "leases that have ended, by how", ("result",))
REFUSALS = Declared("sgld_router_refusals_total", Kind.COUNTER, "requests that got no lease, by error code", ("code",))
PROBES = Declared("sgld_router_probes_total", Kind.COUNTER, "health probes by outcome", ("outcome",))
SENTINEL_ENDS = Declared(
    "sgld_router_sentinel_ends_total",
    Kind.COUNTER,
    "silent connections to workers that ended: a death, a restart or a cut",
)
CONTROL_CALLS = Declared(
    "sgld_router_control_calls_total", Kind.COUNTER, "calls on workers by how they ended", ("ended",)
)
REFITS = Declared("sgld_router_refits_total", Kind.COUNTER, "fleet transactions by outcome", ("outcome",))
RESYNCS = Declared(
    "sgld_router_resyncs_total",
    Kind.COUNTER,
    "workers that were looked at, and sent what they had missed, by outcome: checked had the right weights already",
    ("outcome",),
)
REQUESTS = Declared(
    "sgld_router_requests_total",
    Kind.COUNTER,
    "requests of clients, by route and by class of the reply's status",
    ("route", "status"),
)
BYTES = Declared("sgld_router_bytes_total", Kind.COUNTER, "body bytes relayed", ("direction",))
RETRIES = Declared("sgld_router_retries_total", Kind.COUNTER, "requests that were sent to another worker")
RETRIES_OVER_BUDGET = Declared(
    "sgld_router_retries_over_budget_total",
    Kind.COUNTER,
    "requests that got their worker's failure because too many others were being retried",
)
SPOOLED = Declared("sgld_router_replay_spool_bytes", Kind.GAUGE, "request bodies on disk, kept for another try")
SPOOL_FAILURES = Declared(
    "sgld_router_replay_spool_failures_total", Kind.COUNTER, "request bodies that the disk did not take"
)
HEDGES = Declared("sgld_router_hedges_total", Kind.COUNTER, "copies of late work that were sent to another worker")
HEDGES_WON = Declared(
    "sgld_router_hedges_won_total", Kind.COUNTER, "copies of late work that were ahead of, or outlived, the original"
)
ORPHANS = Declared("sgld_router_orphans", Kind.GAUGE, "requests whose client has left while the worker goes on")
TUNNELS = Declared("sgld_router_tunnels", Kind.GAUGE, "open WebSocket tunnels")
CONNECTIONS = Declared("sgld_router_client_connections", Kind.GAUGE, "open client connections")
STATE_UNSAVED = Declared(
    "sgld_router_state_unsaved", Kind.GAUGE, "changes that are not on disk yet; more than a moment means a fault"
)
STATE_FAILURES = Declared(
    "sgld_router_state_write_failures_total", Kind.COUNTER, "attempts to write the state file that failed"
)

Samples = Mapping[Declared, Iterable[tuple[tuple[str, ...], float]]]
"""By metric: the values of its labels, in their declared order, and the number."""


class _SnapshotCollector(Collector):
    """Hands samples that were taken before to Prometheus's writer."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    @override
    def collect(self) -> Iterator[Metric]:
        for declared, rows in self._samples.items():
            family = GaugeMetricFamily if declared.kind is Kind.GAUGE else CounterMetricFamily
            metric = family(declared.name, declared.meaning, labels=declared.labels)
            for values, number in rows:
                metric.add_metric(values, number)
            yield metric


def render(samples: Samples) -> bytes:
    """Write `samples` in the text format of Prometheus.

    It takes milliseconds for hundreds of workers: call it in a thread.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_SnapshotCollector(samples))
    return generate_latest(registry)
