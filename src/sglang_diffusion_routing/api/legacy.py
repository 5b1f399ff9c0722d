"""The names of older routers: `/add_worker`, `/remove_worker`, `/list_workers`, `/health_workers`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from sglang_diffusion_routing.api.plane import Plane
from sglang_diffusion_routing.api.queries import each_once
from sglang_diffusion_routing.api.registration import address_of
from sglang_diffusion_routing.api.replies import errors, json_body, wire, wire_long
from sglang_diffusion_routing.api.workers import listed
from sglang_diffusion_routing.control.membership import Wanted
from sglang_diffusion_routing.core.worker import WorkerId, WorkerUrl
from sglang_diffusion_routing.errors import InvalidField, InvalidJson, InvalidWorkerUrl, TooManyWorkers, UnknownWorker
from sglang_diffusion_routing.schemas import Status, UnregisterWorker, UrlList, WorkerAdded, WorkerAddress, WorkerList

router = APIRouter(tags=["older names"], dependencies=[Depends(each_once)])


@router.post(
    "/add_worker",
    response_model=WorkerAdded,
    responses=errors(InvalidField, InvalidJson, InvalidWorkerUrl, TooManyWorkers),
    openapi_extra=json_body(WorkerAddress),
)
async def add_worker(request: Request, query: Annotated[WorkerAddress, Query()], plane: Plane) -> Response:
    """Register a worker; answers with every worker's requests in flight."""
    await plane.membership.register(Wanted(await address_of(request, query)))
    fleet = plane.fleet
    return wire(WorkerAdded(worker_urls={str(key): fleet.scheduler.in_flight(key) for key in fleet.pool.workers}))


@router.post(
    "/remove_worker",
    response_model=Status,
    responses={
        **errors(InvalidField, InvalidJson, InvalidWorkerUrl),
        202: {"model": Status, "description": "It drains."},
    },
    openapi_extra=json_body(WorkerAddress),
)
async def remove_worker(request: Request, query: Annotated[UnregisterWorker, Query()], plane: Plane) -> Response:
    """Remove a worker: at once when idle or by force, else when its work has ended; one that is not there is gone."""
    named = WorkerAddress(url=query.url, worker_url=query.worker_url)
    address = WorkerUrl.parse(await address_of(request, named))
    try:
        worker = plane.membership.find(WorkerId(str(address)))
    except UnknownWorker:
        # Older routers say so too, and their trainers rely on it: an engine that cannot leave is not ended either.
        return wire(Status(status="success"))
    gone = plane.membership.remove(worker, force=query.force)
    return wire(Status(status="success" if gone else "draining"), 200 if gone else 202)


@router.get("/list_workers", response_model=UrlList)
async def list_workers(plane: Plane) -> Response:
    """List the workers' URLs, in the order of registration."""
    return wire(UrlList(urls=list(plane.fleet.pool.workers)))


@router.get("/health_workers", response_model=WorkerList)
async def health_workers(plane: Plane) -> Response:
    """List every worker, as `GET /workers` does."""
    return await wire_long(await listed(plane, plane.fleet.pool.workers.values()))
