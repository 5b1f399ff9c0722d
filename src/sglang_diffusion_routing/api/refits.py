"""Routes that change weights, each a transaction over the fleet, and those that show what became of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from sglang_diffusion_routing.api.bodies import parse_object
from sglang_diffusion_routing.api.described import REFIT, TENSORS, passed_on, query
from sglang_diffusion_routing.api.fan_out import FanOut, read_fan_out
from sglang_diffusion_routing.api.plane import ControlPlane, Plane
from sglang_diffusion_routing.api.queries import each_once
from sglang_diffusion_routing.api.replies import errors, wire_long
from sglang_diffusion_routing.api.rl import FAN_OUT_ERRORS, answer
from sglang_diffusion_routing.control.bracket import Bracket
from sglang_diffusion_routing.control.broadcast import Outgoing
from sglang_diffusion_routing.control.parameters import Part, read_pace, read_part, read_version
from sglang_diffusion_routing.control.plan import Choose, Refit
from sglang_diffusion_routing.control.selector import EVERYONE, select
from sglang_diffusion_routing.control.spool import Spool
from sglang_diffusion_routing.core.refit import StepKind
from sglang_diffusion_routing.core.worker import Worker
from sglang_diffusion_routing.errors import (
    BodyTooLarge,
    InvalidField,
    InvalidJson,
    NoOpenRefit,
    TooManyRefits,
    UnknownRefit,
)
from sglang_diffusion_routing.schemas import FanOutReply, RefitList, RefitQuery, RefitReply

router = APIRouter(tags=["reinforcement learning"])

_REFIT_ERRORS = {**FAN_OUT_ERRORS, **errors(InvalidField, InvalidJson, TooManyRefits)}
_PART_ERRORS = {**_REFIT_ERRORS, **errors(NoOpenRefit)}

JSON_MAX_BYTES = 1024 * 1024

_VERSION = ("optional", "name of the new weights, unless the query has it")

Check = Callable[[Mapping[str, object]], None]


def _needs_model_path(body: Mapping[str, object]) -> None:
    path = body.get("model_path")
    if not isinstance(path, str) or not path:
        raise InvalidField("model_path", "'model_path' is required, as a string")


def _needs_nickname(body: Mapping[str, object]) -> None:
    if "lora_nickname" not in body:
        raise InvalidField("lora_nickname", "'lora_nickname' is required")


def _needs_nothing(_body: Mapping[str, object]) -> None:
    """Any object will do."""


@router.post(
    "/update_weights_from_disk",
    response_model=FanOutReply,
    responses=_REFIT_ERRORS,
    openapi_extra={
        **query(*REFIT),
        **passed_on(model_path=("required", "a path that every worker can read"), weight_version=_VERSION),
    },
)
async def update_from_disk(request: Request, plane: Plane) -> Response:
    """Load a checkpoint into every worker: fence, drain, update each as soon as it has drained, open."""
    return await _with_json_body(request, plane, StepKind.DISK, _needs_model_path)


@router.post(
    "/v1/set_lora",
    response_model=FanOutReply,
    responses=_REFIT_ERRORS,
    openapi_extra={
        **query(*REFIT),
        **passed_on(lora_nickname=("required", "name or names of the adapters"), weight_version=_VERSION),
    },
)
async def set_lora(request: Request, plane: Plane) -> Response:
    """Load a LoRA into every worker, like a checkpoint."""
    return await _with_json_body(request, plane, StepKind.SET_LORA, _needs_nickname)


@router.post(
    "/v1/merge_lora_weights",
    response_model=FanOutReply,
    responses=_REFIT_ERRORS,
    openapi_extra={**query(*REFIT), **passed_on(weight_version=_VERSION)},
)
async def merge_lora(request: Request, plane: Plane) -> Response:
    """Merge the LoRA into every worker's weights, like a checkpoint."""
    return await _with_json_body(request, plane, StepKind.MERGE_LORA, _needs_nothing)


@router.post(
    "/v1/unmerge_lora_weights",
    response_model=FanOutReply,
    responses=_REFIT_ERRORS,
    openapi_extra={**query(*REFIT), **passed_on(weight_version=_VERSION)},
)
async def unmerge_lora(request: Request, plane: Plane) -> Response:
    """Take the LoRA out of every worker's weights, like a checkpoint."""
    return await _with_json_body(request, plane, StepKind.UNMERGE_LORA, _needs_nothing)


@router.post(
    "/update_weights_from_tensor",
    response_model=FanOutReply,
    responses=_PART_ERRORS,
    openapi_extra={**query(*REFIT, "refit"), **TENSORS},
)
async def update_from_tensor(request: Request, plane: Plane) -> Response:
    """Load tensors into every worker; the body goes to each as it came, `weight_version` only in the query.

    `refit=begin`, `refit=part` and `refit=commit` make one refit of several requests.
    """
    fan_out = read_fan_out(request, plane, is_refit=True)
    part = read_part(fan_out.own)
    if part in {Part.PART, Part.COMMIT}:
        return await _go_on(request, plane, fan_out, part)
    version, pace = read_version(fan_out.own.get("weight_version")), read_pace(fan_out.own)
    outgoing = await fan_out.outgoing(request)
    refit = Refit(StepKind.TENSOR, outgoing, version, _drain_limit_s(plane, fan_out), pace)
    carry_out = plane.refitter.run if part is None else plane.brackets.begin
    return await answer(await carry_out(_chooser(plane, fan_out), refit))


async def _go_on(request: Request, plane: ControlPlane, fan_out: FanOut, part: Part) -> Response:
    """Take a part, or the commit with or without a last part, of the refit in parts that is under way."""
    bracket = plane.brackets.find(fan_out.workers)
    # From here on, and not only once the body is whole: a large part may take longer than the refit would wait for it.
    with bracket.request():
        outgoing = await fan_out.outgoing(request)
        with outgoing.body:
            if part is Part.COMMIT:
                return await answer(await plane.brackets.commit(bracket, fan_out.only, outgoing))
            return await answer(await _part(bracket, fan_out, outgoing))


async def _part(bracket: Bracket, fan_out: FanOut, outgoing: Outgoing) -> FanOutReply:
    if not outgoing.body.size_bytes:
        raise InvalidField("refit", "a part needs a body")
    return bracket.took(await bracket.part(fan_out.only, outgoing), fan_out.only)


async def _with_json_body(request: Request, plane: ControlPlane, kind: StepKind, check: Check) -> Response:
    """Run a refit whose body is a small JSON object, which is checked before any worker is fenced."""
    fan_out = read_fan_out(request, plane, is_refit=True)
    if "refit" in fan_out.own:
        raise InvalidField(
            "refit", "'refit' has a meaning for tensors only: what this route loads comes in one request"
        )
    pace = read_pace(fan_out.own)
    outgoing = await fan_out.outgoing(request, if_empty=b"{}")
    try:
        content = await _small(outgoing.body)
        body = parse_object(content)
        check(body)
        version = read_version(fan_out.own.get("weight_version"), body.get("weight_version"))
    except BaseException:
        outgoing.body.close()
        raise
    refit = Refit(kind, outgoing, version, _drain_limit_s(plane, fan_out), pace, content)
    return await answer(await plane.refitter.run(_chooser(plane, fan_out), refit))


def _drain_limit_s(plane: ControlPlane, fan_out: FanOut) -> float:
    return plane.settings.drain_timeout_s if fan_out.timeout_s is None else fan_out.timeout_s


def _chooser(plane: ControlPlane, fan_out: FanOut) -> Choose:
    """Give the function that chooses the workers when the refit's turn has come: who has joined since is one of all."""
    selector = fan_out.own.get("selector", EVERYONE)

    def choose() -> Sequence[Worker]:
        if selector == EVERYONE or "=" in selector:
            return select(selector, plane.fleet.pool.workers.values())
        return fan_out.workers

    return choose


async def _small(body: Spool) -> bytes:
    if body.size_bytes > JSON_MAX_BYTES:
        raise BodyTooLarge(JSON_MAX_BYTES)
    return b"".join([chunk async for chunk in body.chunks()])


@router.get("/refits", response_model=RefitList, dependencies=[Depends(each_once)], responses=errors(InvalidField))
async def list_refits(plane: Plane, query: Annotated[RefitQuery, Query()]) -> Response:
    """Show the last refits, the newest first."""
    return await wire_long(RefitList(refits=plane.refitter.log.newest(query.limit)))


@router.get("/refits/{refit_id}", response_model=RefitReply, responses=errors(UnknownRefit))
async def show_refit(plane: Plane, refit_id: str) -> Response:
    """Show how far a refit is, or what became of it."""
    return await wire_long(RefitReply(refit=plane.refitter.log.get(refit_id).view()))
