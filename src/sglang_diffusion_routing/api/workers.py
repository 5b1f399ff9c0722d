"""Routes under `/workers`: list, register, change and remove workers."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Depends, Query, Request, Response

from sglang_diffusion_routing.api.bodies import read_model
from sglang_diffusion_routing.api.plane import ControlPlane, Plane
from sglang_diffusion_routing.api.queries import each_once
from sglang_diffusion_routing.api.replies import errors, json_body, wire, wire_long
from sglang_diffusion_routing.api.views import view, view_all
from sglang_diffusion_routing.core.worker import Worker, WorkerId, WorkerUrl
from sglang_diffusion_routing.errors import (
    Conflict,
    InvalidField,
    InvalidJson,
    InvalidWorkerUrl,
    TooManyWorkers,
    UnknownWorker,
)
from sglang_diffusion_routing.schemas import (
    RegisterWorker,
    RemoveWorker,
    UpdateWorker,
    WorkerChanged,
    WorkerList,
    WorkerRemoved,
    WorkerReply,
)

router = APIRouter(tags=["workers"], dependencies=[Depends(each_once)])

_PREFIX = b"/workers/"
_ENCODED_AT_MOST = 2
"""Client libraries encode a path segment once, or once more when it was encoded already."""


def worker_of_path(request: Request, plane: Plane) -> Worker:
    """Find the worker that the path names: its URL percent-encoded once, twice, or raw with its slashes.

    Raises:
        UnknownWorker: none of these spellings is a registered worker.
    """
    raw: bytes = request.scope["raw_path"]
    name = raw.partition(_PREFIX)[2]
    for _ in range(_ENCODED_AT_MOST + 1):
        worker = _find(plane, name.decode("utf-8", "replace"))
        if worker is not None:
            return worker
        name = unquote_to_bytes(name)
    raise UnknownWorker(name.decode("utf-8", "replace"))


def _find(plane: ControlPlane, name: str) -> Worker | None:
    try:
        return plane.fleet.pool.get(WorkerId(str(WorkerUrl.parse(name))))
    except InvalidWorkerUrl:
        return None


NamedWorker = Annotated[Worker, Depends(worker_of_path)]


async def address_of(request: Request, query: RegisterWorker) -> str:
    """Find the worker URL in the query or in the JSON body.

    Raises:
        InvalidField: it is in neither, or differs between the two.
    """
    body = await read_model(request, RegisterWorker)
    addresses = {address for address in (query.address, body.address) if address is not None}
    if not addresses:
        raise InvalidField("url", "'url' is required, in the query or in a JSON body")
    if len(addresses) > 1:
        raise InvalidField("url", "'url' names different workers in the query and in the body")
    return addresses.pop()


@router.get("/workers", response_model=WorkerList)
async def list_workers(plane: Plane) -> Response:
    """List every worker, in the order of registration."""
    return await wire_long(WorkerList(workers=await view_all(plane.fleet)))


@router.post(
    "/workers",
    response_model=WorkerChanged,
    responses=errors(InvalidField, InvalidJson, InvalidWorkerUrl, TooManyWorkers),
    openapi_extra=json_body(RegisterWorker),
)
async def register_worker(request: Request, query: Annotated[RegisterWorker, Query()], plane: Plane) -> Response:
    """Register a worker by its URL; it can be used as soon as this answers, if it answers itself."""
    worker = await plane.membership.register(await address_of(request, query))
    return wire(WorkerChanged(worker=view(worker, plane.fleet.scheduler)))


@router.get("/workers/{worker_id:path}", response_model=WorkerReply, responses=errors(UnknownWorker))
async def get_worker(worker: NamedWorker, plane: Plane) -> Response:
    """Show one worker; the id is its percent-encoded URL."""
    return wire(WorkerReply(worker=view(worker, plane.fleet.scheduler)))


@router.put(
    "/workers/{worker_id:path}",
    response_model=WorkerChanged,
    responses=errors(InvalidField, InvalidJson, UnknownWorker, Conflict),
    openapi_extra=json_body(UpdateWorker, required=True),
)
async def update_worker(request: Request, worker: NamedWorker, plane: Plane) -> Response:
    """Quarantine, hold, cap or label a worker, or ask it again what it makes."""
    change = await read_model(request, UpdateWorker)
    await plane.membership.update(worker, change)
    return wire(WorkerChanged(worker=view(worker, plane.fleet.scheduler)))


@router.delete(
    "/workers/{worker_id:path}",
    response_model=WorkerRemoved,
    responses={**errors(InvalidField, UnknownWorker), 202: {"model": WorkerRemoved, "description": "It drains."}},
)
async def delete_worker(worker: NamedWorker, query: Annotated[RemoveWorker, Query()], plane: Plane) -> Response:
    """Remove a worker: at once when idle or by force, else when its work has ended."""
    gone = plane.membership.remove(worker, force=query.force)
    removed = WorkerRemoved(status="success" if gone else "draining", worker_id=worker.worker_id)
    return wire(removed, 200 if gone else 202)
