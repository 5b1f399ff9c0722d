"""Routes under `/workers`: list, register, change and remove workers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Depends, Query, Request, Response

from sglang_diffusion_routing.api import launched
from sglang_diffusion_routing.api.bodies import read_model
from sglang_diffusion_routing.api.described import WORKER_ID
from sglang_diffusion_routing.api.plane import ControlPlane, Plane
from sglang_diffusion_routing.api.queries import each_once
from sglang_diffusion_routing.api.registration import named_workers, whole_set
from sglang_diffusion_routing.api.replies import errors, json_body, wire, wire_long
from sglang_diffusion_routing.api.views import view, view_all, view_queue
from sglang_diffusion_routing.control.selector import select
from sglang_diffusion_routing.core.worker import Worker, WorkerId, WorkerUrl
from sglang_diffusion_routing.errors import (
    BodyTooLarge,
    Conflict,
    InvalidField,
    InvalidJson,
    InvalidWorkerUrl,
    TooManyWorkers,
    UnknownWorker,
)
from sglang_diffusion_routing.schemas import (
    RegisterWorkers,
    RemoveWorker,
    RemoveWorkers,
    SelectWorkers,
    SwapWorkers,
    UpdateWorker,
    WorkerAddress,
    WorkerChanged,
    WorkerList,
    WorkerRemoved,
    WorkerReply,
    WorkersChanged,
    WorkersRemoved,
    WorkersSwapped,
    WorkerView,
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


@router.get("/workers", response_model=WorkerList, responses=errors(InvalidField, InvalidWorkerUrl, UnknownWorker))
async def list_workers(query: Annotated[SelectWorkers, Query()], plane: Plane) -> Response:
    """List every worker, or those that `selector` names, in the order of registration, and the queue."""
    return await wire_long(await listed(plane, _selected(plane, query.selector)))


@router.post(
    "/workers",
    response_model=WorkerChanged | WorkersChanged,
    responses=errors(InvalidField, InvalidJson, BodyTooLarge, InvalidWorkerUrl, TooManyWorkers),
    openapi_extra=json_body(RegisterWorkers),
)
async def register_workers(request: Request, query: Annotated[WorkerAddress, Query()], plane: Plane) -> Response:
    """Register a worker by its URL, or several by `urls`, all or none.

    They can be used as soon as this answers, if they answer themselves. One that is registered already stays as it is,
    but for the labels and the cap that are given. `url` is answered with `worker`, a list with `workers`.
    """
    named = await named_workers(request, query)
    workers = await plane.membership.register(*named.wanted)
    if named.several:
        return await wire_long(WorkersChanged(workers=await _views(plane, workers)))
    return wire(WorkerChanged(worker=_view(plane, workers[0])))


@router.put(
    "/workers",
    response_model=WorkersSwapped,
    responses={
        **errors(InvalidField, InvalidJson, BodyTooLarge, InvalidWorkerUrl, TooManyWorkers, Conflict),
        202: {"model": WorkersSwapped, "description": "Some that are missing drain."},
    },
    openapi_extra=json_body(SwapWorkers, required=True),
)
async def swap_workers(request: Request, query: Annotated[RemoveWorker, Query()], plane: Plane) -> Response:
    """Name the whole set: what is new is registered and probed, then what is missing is removed; what stays, stays.

    What is missing and busy drains, or goes at once by force.
    """
    swap = await plane.membership.swap(await whole_set(request), force=query.force)
    reply = WorkersSwapped(
        status="draining" if swap.draining else "success",
        workers=await _views(plane, swap.workers),
        added=_ids(swap.added),
        kept=_ids(swap.kept),
        draining=_ids(swap.draining),
        removed=_ids(swap.removed),
    )
    return await wire_long(reply, 202 if swap.draining else 200)


@router.delete(
    "/workers",
    response_model=WorkersRemoved,
    responses={
        **errors(InvalidField, InvalidWorkerUrl, UnknownWorker),
        202: {"model": WorkersRemoved, "description": "Some drain."},
    },
)
async def delete_workers(query: Annotated[RemoveWorkers, Query()], plane: Plane) -> Response:
    """Remove the workers that `selector` names: at once when idle or by force, else when their work has ended."""
    removal = plane.membership.remove_all(_selected(plane, query.selector), force=query.force)
    reply = WorkersRemoved(
        status="draining" if removal.draining else "success",
        draining=_ids(removal.draining),
        removed=_ids(removal.removed),
    )
    return await wire_long(reply, 202 if removal.draining else 200)


def _selected(plane: ControlPlane, selector: str) -> list[Worker]:
    return select(selector, plane.fleet.pool.workers.values())


async def listed(plane: ControlPlane, workers: Iterable[Worker]) -> WorkerList:
    """Show workers, and what waits for any of the fleet."""
    fleet = plane.fleet
    shown = await view_all(workers, fleet.scheduler, launched.slots(plane))
    return WorkerList(workers=shown, queue=view_queue(fleet.scheduler, fleet.now_s()))


async def _views(plane: ControlPlane, workers: Sequence[Worker]) -> list[WorkerView]:
    return await view_all(workers, plane.fleet.scheduler, launched.slots(plane))


def _view(plane: ControlPlane, worker: Worker) -> WorkerView:
    return view(worker, plane.fleet.scheduler, launched.slots(plane).get(worker.worker_id))


def _ids(workers: Sequence[Worker]) -> list[str]:
    return [worker.worker_id for worker in workers]


@router.get(
    "/workers/{worker_id:path}", response_model=WorkerReply, responses=errors(UnknownWorker), openapi_extra=WORKER_ID
)
async def get_worker(worker: NamedWorker, plane: Plane) -> Response:
    """Show one worker; the id is its percent-encoded URL."""
    return wire(WorkerReply(worker=_view(plane, worker)))


@router.put(
    "/workers/{worker_id:path}",
    response_model=WorkerChanged,
    responses=errors(InvalidField, InvalidJson, UnknownWorker, Conflict),
    openapi_extra={**WORKER_ID, **json_body(UpdateWorker, required=True)},
)
async def update_worker(request: Request, worker: NamedWorker, plane: Plane) -> Response:
    """Quarantine, hold, cap or label a worker, or ask it again what it makes."""
    change = await read_model(request, UpdateWorker)
    await plane.membership.update(worker, change)
    return wire(WorkerChanged(worker=_view(plane, worker)))


@router.delete(
    "/workers/{worker_id:path}",
    response_model=WorkerRemoved,
    responses={**errors(InvalidField, UnknownWorker), 202: {"model": WorkerRemoved, "description": "It drains."}},
    openapi_extra=WORKER_ID,
)
async def delete_worker(worker: NamedWorker, query: Annotated[RemoveWorker, Query()], plane: Plane) -> Response:
    """Remove a worker: at once when idle or by force, else when its work has ended."""
    gone = plane.membership.remove(worker, force=query.force)
    removed = WorkerRemoved(status="success" if gone else "draining", worker_id=worker.worker_id)
    return wire(removed, 200 if gone else 202)
