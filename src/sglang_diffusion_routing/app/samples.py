"""Read every counter for a scrape of `/metrics`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from sglang_diffusion_routing import metrics as m
from sglang_diffusion_routing.control.prober import Prober
from sglang_diffusion_routing.control.refitter import Refitter
from sglang_diffusion_routing.control.resync import Resyncer
from sglang_diffusion_routing.control.sentinel import Sentinels
from sglang_diffusion_routing.control.worker_api import WorkerApi
from sglang_diffusion_routing.core.work import Result
from sglang_diffusion_routing.http1.replay import Spools
from sglang_diffusion_routing.proxy.counters import DataPlaneCounters
from sglang_diffusion_routing.runtime.loop import Fleet

Rows = list[tuple[tuple[str, ...], float]]


def reader(
    fleet: Fleet,
    counters: DataPlaneCounters,
    spools: Spools,
    api: WorkerApi,
    prober: Prober,
    sentinels: Sentinels,
    refitter: Refitter,
    resyncer: Resyncer,
) -> Callable[[], m.Samples]:
    """Give the function that reads all counters now; what it gives does not change any more."""

    def read() -> m.Samples:
        return {
            **_of_workers(fleet),
            m.STATE_UNSAVED: _one(fleet.saver.unsaved),
            m.STATE_FAILURES: _one(fleet.saver.failures),
            **_of_work(counters),
            m.SPOOLED: _one(spools.used_bytes),
            m.SPOOL_FAILURES: _one(spools.failures),
            m.PROBES: _by_label(prober.outcomes),
            m.SENTINEL_ENDS: _one(sentinels.ended_total),
            m.CONTROL_CALLS: _by_label(api.ended),
            m.REFITS: _by_label(refitter.outcomes),
            m.RESYNCS: _by_label(resyncer.outcomes),
        }

    return read


def _of_workers(fleet: Fleet) -> m.Samples:
    pool, scheduler = fleet.pool, fleet.scheduler
    workers = list(pool.workers.values())
    return {
        m.WORKERS: _by_label(Counter(pool.counts_by_status())),
        m.WORKER_IN_FLIGHT: [((w.worker_id,), scheduler.in_flight(w.worker_id)) for w in workers],
        m.WORKER_SPEED: [
            ((w.worker_id,), speed.per_s)
            for w in workers
            if (speed := scheduler.speed_of(w.worker_id)) is not None and speed.per_s
        ],
        m.WORKER_ROUTABLE: [((w.worker_id,), pool.is_routable(w)) for w in workers],
        m.QUEUED: _one(scheduler.queued),
        m.QUEUED_BYTES: _one(scheduler.queued_bytes),
        m.LEASES: _one(scheduler.live_leases),
        m.LEASES_ENDED: [((result.name.lower(),), fleet.ended[result]) for result in Result],
    }


def _of_work(counters: DataPlaneCounters) -> m.Samples:
    return {
        m.REQUESTS: [
            ((route, f"{status}xx" if status else "none"), number)
            for route, numbers in list(counters.requests.items())
            for status, number in enumerate(numbers)
            if number
        ],
        m.REFUSALS: _by_label(counters.refusals),
        m.BYTES: [
            (("to_workers",), counters.bytes_to_workers),
            (("to_clients",), counters.bytes_to_clients),
        ],
        m.RETRIES: _one(counters.retries),
        m.RETRIES_OVER_BUDGET: _one(counters.retries_over_budget),
        m.HEDGES: _one(counters.hedges),
        m.HEDGES_WON: _one(counters.hedges_won),
        m.ORPHANS: _one(counters.orphans_now),
        m.TUNNELS: _one(counters.tunnels_now),
        m.CONNECTIONS: _one(counters.connections_now),
    }


def _one(number: float) -> Rows:
    return [((), number)]


def _by_label(counts: dict[str, int]) -> Rows:
    return [((label,), number) for label, number in counts.items()]
