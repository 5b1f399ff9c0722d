"""Routes of the reinforcement-learning loop: sleep, wake, checksums, the queue, and any fan-out by selector."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from sglang_diffusion_routing.api.bodies import read_bytes, read_model
from sglang_diffusion_routing.api.described import FAN_OUT, query
from sglang_diffusion_routing.api.fan_out import read_fan_out
from sglang_diffusion_routing.api.plane import ControlPlane, Plane
from sglang_diffusion_routing.api.replies import errors, json_body, wire, wire_long
from sglang_diffusion_routing.control.rows import is_good
from sglang_diffusion_routing.errors import (
    BodyTooLarge,
    FleetRouteUnknown,
    InvalidField,
    InvalidJson,
    InvalidWorkerUrl,
    NoDiskSpace,
    NoEligibleWorker,
    RouteNotFound,
    UnknownWorker,
)
from sglang_diffusion_routing.proxy.routes import changes_state
from sglang_diffusion_routing.schemas import Abort, AbortReply, FanOutReply, Pause, PauseReply

router = APIRouter(tags=["reinforcement learning"])

FAN_OUT_ERRORS = errors(InvalidField, InvalidWorkerUrl, UnknownWorker, BodyTooLarge, NoEligibleWorker, NoDiskSpace)


async def answer(reply: FanOutReply) -> Response:
    """Write a fan-out's reply, without the fields that do not apply to it."""
    left_out = {name for name in ("message", "weight_version", "consistent", "refit") if getattr(reply, name) is None}
    return await wire_long(reply, exclude=left_out)


@router.post(
    "/release_memory_occupation",
    response_model=FanOutReply,
    responses=FAN_OUT_ERRORS,
    openapi_extra=query(*FAN_OUT),
)
async def release_memory(request: Request, plane: Plane) -> Response:
    """Put workers to sleep, each as soon as its work has ended."""
    fan_out = read_fan_out(request, plane)
    await read_bytes(request)
    return await answer(await plane.memory.release(fan_out.workers, fan_out.timeout_s))


@router.post(
    "/resume_memory_occupation",
    response_model=FanOutReply,
    responses=FAN_OUT_ERRORS,
    openapi_extra=query("selector"),
)
async def resume_memory(request: Request, plane: Plane) -> Response:
    """Wake workers; one that was quarantined while it slept serves again once it has answered."""
    fan_out = read_fan_out(request, plane)
    await read_bytes(request)
    return await answer(await plane.memory.resume(fan_out.workers))


@router.post(
    "/get_weights_checksum",
    response_model=FanOutReply,
    responses=FAN_OUT_ERRORS,
    openapi_extra=query(*FAN_OUT),
)
async def weights_checksum(request: Request, plane: Plane) -> Response:
    """Ask workers for the checksums of their weights; `consistent` when all have the same."""
    fan_out = read_fan_out(request, plane)
    # The worker fails on an empty body (500, text/plain), and so would every caller who wants all modules.
    outgoing = await fan_out.outgoing(request, if_empty=b"{}")
    with outgoing.body:
        reply = await plane.broadcast.send(fan_out.workers, outgoing, timeout_s=fan_out.timeout_s, asleep_too=True)
    same = all(is_good(row) and row.body == reply.results[0].body for row in reply.results)
    return await answer(reply.model_copy(update={"consistent": same}))


@router.post(
    "/update_weights_from_tensor_checker",
    response_model=FanOutReply,
    responses=FAN_OUT_ERRORS,
    openapi_extra=query(*FAN_OUT),
)
async def check_tensors(request: Request, plane: Plane) -> Response:
    """Have workers compare their weights with expected checksums."""
    return await _broadcast(request, plane, asleep_too=True)


@router.post(
    "/pause_generation",
    response_model=PauseReply,
    responses=errors(InvalidField, InvalidJson),
    openapi_extra=json_body(Pause),
)
async def pause_generation(request: Request, plane: Plane) -> Response:
    """Hold the queue: running work goes on, what comes waits."""
    pause = await read_model(request, Pause)
    return wire(PauseReply(status="paused", queued=plane.gate.pause(pause.timeout_s)))


@router.post("/continue_generation", response_model=PauseReply)
async def continue_generation(request: Request, plane: Plane) -> Response:
    """Let the queue go on."""
    await read_bytes(request)
    return wire(PauseReply(status="running", queued=plane.gate.resume()))


@router.post(
    "/abort_request",
    response_model=AbortReply,
    responses=errors(InvalidField, InvalidJson),
    openapi_extra=json_body(Abort, required=True),
)
async def abort_request(request: Request, plane: Plane) -> Response:
    """Drop queued work: one request, a group or everything; its clients get 499. Running work is left."""
    abort = await read_model(request, Abort)
    return wire(AbortReply(aborted=plane.gate.abort(request_id=abort.rid, group=abort.group)))


async def fall_back(request: Request, plane: ControlPlane) -> Response:
    """Answer for a path that no route has: a fan-out where `selector` says to whom, else an error.

    Raises:
        FleetRouteUnknown: the path looks like one that changes a worker's state; one worker of many must never get it.
        RouteNotFound: it does not.
    """
    if "selector" in request.query_params:
        return await _broadcast(request, plane)
    if changes_state(request.method.encode(), request.url.path.encode()):
        raise FleetRouteUnknown(request.url.path)
    raise RouteNotFound(request.url.path)


async def _broadcast(request: Request, plane: ControlPlane, *, asleep_too: bool = False) -> Response:
    fan_out = read_fan_out(request, plane)
    outgoing = await fan_out.outgoing(request)
    with outgoing.body:
        reply = await plane.broadcast.send(
            fan_out.workers, outgoing, timeout_s=fan_out.timeout_s, asleep_too=asleep_too
        )
    return await answer(reply)
