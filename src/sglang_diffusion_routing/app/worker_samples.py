"""Read what a scrape of `/metrics` tells of each worker."""

from __future__ import annotations

from collections.abc import Iterable

from sglang_diffusion_routing import metrics as m
from sglang_diffusion_routing.core.work import Result
from sglang_diffusion_routing.core.worker import Worker
from sglang_diffusion_routing.metrics.kinds import Declared
from sglang_diffusion_routing.runtime.loop import Fleet

Rows = list[tuple[tuple[str, ...], float]]

_OUTCOMES = tuple(result.name.lower() for result in Result)


def of_each(fleet: Fleet, workers: Iterable[Worker]) -> dict[Declared, Rows]:
    """Give every metric that there is for each worker, in the order of `workers`."""
    pool, scheduler = fleet.pool, fleet.scheduler
    in_flight: Rows = []
    speeds: Rows = []
    routable: Rows = []
    statuses: Rows = []
    health: Rows = []
    failed: Rows = []
    weights: Rows = []
    requests: Rows = []
    for worker in workers:
        worker_id = worker.worker_id
        one = (worker_id,)
        in_flight.append((one, scheduler.in_flight(worker_id)))
        speed = scheduler.speed_of(worker_id)
        if speed is not None and speed.per_s:
            speeds.append((one, speed.per_s))
        routable.append((one, pool.is_routable(worker)))
        statuses.append(((worker_id, worker.status.value), 1))
        health.append(((worker_id, worker.health.value), 1))
        failed.append((one, worker.vitals.failures))
        version = worker.weight_version
        if version is not None:
            weights.append(((worker_id, version), 1))
        requests += [
            ((worker_id, route, _OUTCOMES[result]), number)
            for route, numbers in scheduler.ended(worker_id).items()
            for result, number in enumerate(numbers)
            if number
        ]
    return {
        m.WORKER_IN_FLIGHT: in_flight,
        m.WORKER_SPEED: speeds,
        m.WORKER_ROUTABLE: routable,
        m.WORKER_STATUS: statuses,
        m.WORKER_HEALTH: health,
        m.WORKER_FAILED_CHECKS: failed,
        m.WORKER_WEIGHTS: weights,
        m.WORKER_REQUESTS: requests,
    }
