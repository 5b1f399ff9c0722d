"""Read every counter for a scrape of `/metrics`."""

from __future__ import annotations

import asyncio
import platform
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sglang_diffusion_routing import __version__
from sglang_diffusion_routing import metrics as m
from sglang_diffusion_routing.app.worker_samples import of_each
from sglang_diffusion_routing.control.prober import Prober
from sglang_diffusion_routing.control.refitter import Refitter
from sglang_diffusion_routing.control.resync import Resyncer
from sglang_diffusion_routing.control.sentinel import Sentinels
from sglang_diffusion_routing.control.worker_api import WorkerApi
from sglang_diffusion_routing.core.work import Result
from sglang_diffusion_routing.launchers.supervisor import Supervisor
from sglang_diffusion_routing.metrics.histogram import Distribution, Histogram
from sglang_diffusion_routing.metrics.kinds import Samples
from sglang_diffusion_routing.proxy.server import DataPlane
from sglang_diffusion_routing.runtime.lag import Lag
from sglang_diffusion_routing.runtime.loop import Fleet

if TYPE_CHECKING:
    from sglang_diffusion_routing.runtime.gallery import Gallery

Rows = list[tuple[tuple[str, ...], float]]
Sizes = list[tuple[tuple[str, ...], Distribution]]

BATCH = 50
"""Workers that are read in one go: half a millisecond of the loop."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Whoever counts.

    supervisor: None where the router starts no workers. gallery: None where no images are shown.
    """

    fleet: Fleet
    data_plane: DataPlane
    api: WorkerApi
    prober: Prober
    sentinels: Sentinels
    refitter: Refitter
    resyncer: Resyncer
    lag: Lag
    supervisor: Supervisor | None
    gallery: Gallery | None


def reader(sources: Sources) -> Callable[[], Awaitable[Samples]]:
    """Give the function that reads all counters now; what it gives does not change any more.

    The loop goes on meanwhile: what is told of some workers may be a moment older than that of others.
    """

    async def read() -> Samples:
        workers = list(sources.fleet.pool.workers.values())
        rows = of_each(sources.fleet, workers[:BATCH])
        for start in range(BATCH, len(workers), BATCH):
            await asyncio.sleep(0)
            for metric, more in of_each(sources.fleet, workers[start : start + BATCH]).items():
                rows[metric] += more
        return {
            **rows,
            **_of_fleet(sources.fleet),
            **_of_work(sources.data_plane),
            **_of_control(sources),
            **_of_launcher(sources.supervisor),
            **_of_process(sources.lag),
            m.THUMBNAILS: [] if sources.gallery is None else _by_label(sources.gallery.outcomes),
        }

    return read


def _of_fleet(fleet: Fleet) -> Samples:
    pool, scheduler, journal = fleet.pool, fleet.scheduler, fleet.journal
    since_s, ended = scheduler.queued_since_s, fleet.ended
    return {
        m.WORKERS: _by_label(Counter(pool.counts_by_status())),
        m.STATUS_CHANGES: [((status.value,), number) for status, number in journal.changes.items()],
        m.QUARANTINES: _one(journal.quarantines),
        m.ASLEEP: _one(pool.asleep),
        m.PAUSED: _one(scheduler.paused),
        m.QUEUED: _one(scheduler.queued),
        m.QUEUED_BYTES: _one(scheduler.queued_bytes),
        m.QUEUE_OLDEST: _one(0.0 if since_s is None else fleet.now_s() - since_s),
        m.LEASES: _one(scheduler.live_leases),
        m.LEASES_ENDED: [((result.name.lower(),), ended[result]) for result in Result],
        m.STATE_UNSAVED: _one(fleet.saver.unsaved),
        m.STATE_FAILURES: _one(fleet.saver.failures),
        m.WATCHERS: _one(fleet.watch.count),
    }


def _of_work(data_plane: DataPlane) -> Samples:
    counters, jobs, spools = data_plane.counters, data_plane.jobs, data_plane.spools
    upstreams = data_plane.upstreams
    times = {route: counts.read() for route, counts in counters.routes.items() if counts.has_times}
    return {
        m.REQUESTS: [
            ((route, f"{status}xx" if status else "none"), number)
            for route, counts in counters.routes.items()
            for status, number in enumerate(counts.statuses)
            if number
        ],
        m.REFUSALS: _by_label(counters.refusals),
        m.QUEUE_WAIT: [((route,), queued) for route, (queued, _, _, _) in times.items()],
        m.TIME_TO_HEAD: [((route,), head) for route, (_, head, _, _) in times.items()],
        m.GENERATION: [
            *(((route,), made) for route, (_, _, made, _) in times.items() if route not in jobs.took),
            *_sizes(jobs.took),
        ],
        m.RELAY: [((route,), relayed) for route, (_, _, _, relayed) in times.items()],
        m.BYTES: [
            (("to_workers",), counters.bytes_to_workers),
            (("to_clients",), counters.bytes_to_clients),
        ],
        m.RETRIES: _one(counters.retries),
        m.RETRIES_OVER_BUDGET: _one(counters.retries_over_budget),
        m.SPOOLED: _one(spools.used_bytes),
        m.SPOOL_FAILURES: _one(spools.failures),
        m.HEDGES: _one(counters.hedges),
        m.HEDGES_WON: _one(counters.hedges_won),
        m.ORPHANS: _one(counters.orphans_now),
        m.ORPHANED: _one(counters.orphans),
        m.JOBS: _one(len(jobs)),
        m.TUNNELS: _one(counters.tunnels_now),
        m.TUNNELS_OPENED: _one(counters.tunnels),
        m.CONNECTIONS: _one(counters.connections_now),
        m.CONNECTIONS_OPENED: _one(counters.connections),
        m.WORKER_CONNECTIONS: _one(len(upstreams)),
        m.WORKER_CONNECTIONS_OPENED: _one(upstreams.connects_total),
    }


def _of_control(sources: Sources) -> Samples:
    return {
        m.PROBES: _by_label(sources.prober.outcomes),
        m.SENTINEL_ENDS: _one(sources.sentinels.ended_total),
        m.CONTROL_CALLS: _by_label(sources.api.ended),
        m.REFITS: _by_label(sources.refitter.outcomes),
        m.REFIT_DURATION: _sizes(sources.refitter.took),
        m.RESYNCS: _by_label(sources.resyncer.outcomes),
    }


def _of_launcher(supervisor: Supervisor | None) -> Samples:
    slots = [] if supervisor is None else supervisor.slots
    return {
        m.SLOTS: _by_label(Counter(slot.phase.value for slot in slots)),
        m.RESTARTS: _one(sum(slot.restarts for slot in slots)),
    }


def _of_process(lag: Lag) -> Samples:
    return {
        m.LOOP_LAG: [((), lag.delays.read())],
        m.LOOP_LAG_MAX: _one(lag.largest_s),
        m.BUILD: [((__version__, platform.python_version()), 1)],
    }


def _one(number: float) -> Rows:
    return [((), number)]


def _by_label(counts: Mapping[str, int]) -> Rows:
    return [((label,), number) for label, number in counts.items()]


def _sizes(histograms: Mapping[str, Histogram]) -> Sizes:
    return [((label,), histogram.read()) for label, histogram in histograms.items()]
