"""Routes that tell how the router is: `/health`, `/liveness`, `/readiness`, `/metrics`, `/router_info`."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Response

from sglang_diffusion_routing.api.plane import Plane
from sglang_diffusion_routing.api.replies import Documented, errors, wire
from sglang_diffusion_routing.core.state import Health, WorkerState
from sglang_diffusion_routing.core.worker import Standing, Worker, standing
from sglang_diffusion_routing.errors import NoRoutableWorker, QueueFull
from sglang_diffusion_routing.metrics import text
from sglang_diffusion_routing.schemas import HealthReply, RouterInfo, Status

router = APIRouter(tags=["status"])

_TAKES_OR_WILL = frozenset({Standing.ROUTABLE, Standing.UNPROVEN, Standing.COMING})


_UNHEALTHY: Documented = {503: {"model": HealthReply, "description": "No worker is healthy."}}


@router.get("/health", response_model=HealthReply, responses=_UNHEALTHY)
async def health(plane: Plane) -> Response:
    """Tell whether any worker serves."""
    workers = plane.fleet.pool.workers.values()
    healthy = sum(map(_counts_as_healthy, workers))
    reply = HealthReply(
        status="healthy" if healthy else "unhealthy",
        healthy_workers=healthy,
        total_workers=len(workers),
        dead_workers=sum(worker.health is Health.QUARANTINED for worker in workers),
        sleeping_workers=sum(worker.state is WorkerState.SLEEPING for worker in workers),
    )
    return wire(reply, 200 if healthy else 503)


def _counts_as_healthy(worker: Worker) -> bool:
    """Draining, updating and busy workers count; quarantined, sleeping and never heard ones do not."""
    if worker.state is WorkerState.SLEEPING or worker.health is Health.QUARANTINED:
        return False
    return worker.health is Health.HEALTHY or worker.vitals.answered


@router.get("/liveness", response_model=Status)
async def liveness() -> Response:
    """Tell that the process is up."""
    return wire(Status(status="alive"))


@router.get("/readiness", response_model=Status, responses=errors(NoRoutableWorker, QueueFull))
async def readiness(plane: Plane) -> Response:
    """Tell whether a request would be taken or queued now."""
    pool, scheduler, limit = plane.fleet.pool, plane.fleet.scheduler, plane.settings.queue_max_requests
    if not any(standing(worker) in _TAKES_OR_WILL for worker in pool.workers.values()):
        raise NoRoutableWorker(pool.counts_by_status())
    if scheduler.queued and scheduler.queued >= limit:
        raise QueueFull(scheduler.queued, f"{limit} requests", 1, pool.counts_by_status())
    return wire(Status(status="ready"))


@router.get("/router_info", response_model=RouterInfo)
async def router_info(plane: Plane) -> Response:
    """Tell of the router's process, its limits and its state file."""
    return wire(await asyncio.to_thread(plane.info))


@router.get("/metrics", response_class=Response)
async def prometheus(plane: Plane) -> Response:
    """Give every metric in Prometheus's text format."""
    content = await asyncio.to_thread(text.render, await plane.samples(), text.PROCESS)
    return Response(content, headers={"content-type": text.CONTENT_TYPE})
