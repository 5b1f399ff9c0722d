"""Routes for the workers that this router has started: look at their slots; stop, start and replace them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Depends, Query, Request, Response

from sglang_diffusion_routing.api.described import WORKER_ID
from sglang_diffusion_routing.api.plane import ControlPlane, Plane
from sglang_diffusion_routing.api.queries import each_once
from sglang_diffusion_routing.api.replies import errors, wire
from sglang_diffusion_routing.core.worker import WorkerId, WorkerUrl
from sglang_diffusion_routing.errors import Conflict, InvalidField, InvalidWorkerUrl, UnknownWorker
from sglang_diffusion_routing.launchers import slots as launched_slots
from sglang_diffusion_routing.launchers.slots import Order
from sglang_diffusion_routing.schemas import LaunchedView, OrderSlot, SlotList, SlotOrdered, SlotView

router = APIRouter(tags=["launcher"], dependencies=[Depends(each_once)])

_PREFIX = b"/workers/"
_ENCODED_AT_MOST = 2


def slots(plane: ControlPlane) -> Mapping[str, LaunchedView]:
    """Give the slots of the workers that this router has started, by worker id."""
    if plane.supervisor is None:
        return {}
    return {
        slot.url: LaunchedView(slot=slot.slot, phase=slot.phase, restarts=slot.restarts, pid=slot.pid, log=slot.log)
        for slot in plane.supervisor.slots
        if slot.url is not None
    }


@router.get("/launcher", response_model=SlotList)
async def list_slots(plane: Plane) -> Response:
    """List the slots of the launcher; a slot is there whether its worker is or not."""
    views = [] if plane.supervisor is None else plane.supervisor.slots
    return wire(SlotList(slots=[_shown(view) for view in views]))


def _shown(view: launched_slots.SlotView) -> SlotView:
    return SlotView(
        slot=view.slot,
        phase=view.phase,
        restarts=view.restarts,
        pid=view.pid,
        log=view.log,
        worker_id=view.url,
        reason=view.reason,
        seconds=asyncio.get_running_loop().time() - view.since_s,
        tail=list(view.tail),
        facts=dict(view.facts),
    )


_ERRORS = errors(InvalidField, UnknownWorker, Conflict)
Options = Annotated[OrderSlot, Query()]


@router.post(
    "/workers/{worker_id:path}/restart",
    status_code=202,
    response_model=SlotOrdered,
    responses=_ERRORS,
    openapi_extra=WORKER_ID,
)
async def restart_worker(request: Request, query: Options, plane: Plane) -> Response:
    """Replace a worker's process once its work has ended, or now by force; only one that this router has started.

    The worker stays registered, and has work again once the new process is on current weights.
    """
    return _order(request, plane, Order.RESTART, "restarting", force=query.force)


@router.post(
    "/workers/{worker_id:path}/stop",
    status_code=202,
    response_model=SlotOrdered,
    responses=_ERRORS,
    openapi_extra=WORKER_ID,
)
async def stop_worker(request: Request, query: Options, plane: Plane) -> Response:
    """End a worker's process once its work has ended, or now by force; it is removed, and stays stopped."""
    return _order(request, plane, Order.STOP, "stopping", force=query.force)


@router.post(
    "/workers/{worker_id:path}/start",
    status_code=202,
    response_model=SlotOrdered,
    responses=_ERRORS,
    openapi_extra=WORKER_ID,
)
async def start_worker(request: Request, plane: Plane) -> Response:
    """Start a worker that was stopped, died too often, or waits to be started again; one that runs is left alone."""
    return _order(request, plane, Order.START, "starting", force=False)


def _order(
    request: Request,
    plane: ControlPlane,
    order: Order,
    status: Literal["restarting", "stopping", "starting"],
    *,
    force: bool,
) -> Response:
    url = _url_of_path(request, plane)
    if plane.supervisor is None:
        raise Conflict(f"{url} was not started by this router, which starts none", worker_id=url)
    return wire(SlotOrdered(status=status, slot=_shown(plane.supervisor.ask(url, order, force=force))), 202)


def _url_of_path(request: Request, plane: ControlPlane) -> str:
    """Find the worker that the path names, registered or in a slot: percent-encoded once, twice, or not at all.

    Raises:
        UnknownWorker: there is none.
    """
    raw: bytes = request.scope["raw_path"]
    name = raw.partition(_PREFIX)[2].rpartition(b"/")[0]
    for _ in range(_ENCODED_AT_MOST + 1):
        url = _canonical(name.decode("utf-8", "replace"))
        if url is not None and _is_known(plane, url):
            return url
        name = unquote_to_bytes(name)
    raise UnknownWorker(name.decode("utf-8", "replace"))


def _canonical(name: str) -> str | None:
    try:
        return str(WorkerUrl.parse(name))
    except InvalidWorkerUrl:
        return None


def _is_known(plane: ControlPlane, url: str) -> bool:
    in_slot = plane.supervisor is not None and plane.supervisor.find(url) is not None
    return in_slot or plane.fleet.pool.get(WorkerId(url)) is not None
