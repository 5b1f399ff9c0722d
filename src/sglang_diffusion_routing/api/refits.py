"""Routes that change weights: each is one transaction over the fleet."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastapi import APIRouter, Request, Response

from sglang_diffusion_routing.api.bodies import parse_object
from sglang_diffusion_routing.api.fan_out import FanOut, read_fan_out
from sglang_diffusion_routing.api.plane import ControlPlane, Plane
from sglang_diffusion_routing.api.replies import errors
from sglang_diffusion_routing.api.rl import FAN_OUT_ERRORS, answer
from sglang_diffusion_routing.control.broadcast import Outgoing
from sglang_diffusion_routing.control.refitter import Refit
from sglang_diffusion_routing.control.spool import Spool
from sglang_diffusion_routing.errors import BodyTooLarge, InvalidField, InvalidJson, TooManyRefits
from sglang_diffusion_routing.schemas import FanOutReply

router = APIRouter(
    tags=["reinforcement learning"], responses={**FAN_OUT_ERRORS, **errors(InvalidField, InvalidJson, TooManyRefits)}
)

MODES = frozenset({"drain"})
JSON_MAX_BYTES = 1024 * 1024
VERSION_MAX = 256
"""Characters of a version: it is shown in a header of every reply."""

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


@router.post("/update_weights_from_disk", response_model=FanOutReply)
async def update_from_disk(request: Request, plane: Plane) -> Response:
    """Load a checkpoint into every worker: fence, drain, update each as soon as it has drained, open."""
    return await _with_json_body(request, plane, _needs_model_path)


@router.post("/v1/set_lora", response_model=FanOutReply)
async def set_lora(request: Request, plane: Plane) -> Response:
    """Load a LoRA into every worker, like a checkpoint."""
    return await _with_json_body(request, plane, _needs_nickname)


@router.post("/v1/merge_lora_weights", response_model=FanOutReply)
async def merge_lora(request: Request, plane: Plane) -> Response:
    """Merge the LoRA into every worker's weights, like a checkpoint."""
    return await _with_json_body(request, plane, _needs_nothing)


@router.post("/v1/unmerge_lora_weights", response_model=FanOutReply)
async def unmerge_lora(request: Request, plane: Plane) -> Response:
    """Take the LoRA out of every worker's weights, like a checkpoint."""
    return await _with_json_body(request, plane, _needs_nothing)


@router.post("/update_weights_from_tensor", response_model=FanOutReply)
async def update_from_tensor(request: Request, plane: Plane) -> Response:
    """Load tensors into every worker; the body goes to each as it came, `weight_version` only in the query."""
    fan_out = read_fan_out(request, plane, modes=MODES)
    version = _checked(fan_out.own.get("weight_version"))
    return await _run(plane, fan_out, await fan_out.outgoing(request), version)


async def _with_json_body(request: Request, plane: ControlPlane, check: Check) -> Response:
    """Run a refit whose body is a small JSON object, which is checked before any worker is fenced."""
    fan_out = read_fan_out(request, plane, modes=MODES)
    outgoing = await fan_out.outgoing(request, if_empty=b"{}")
    try:
        body = parse_object(await _small(outgoing.body))
        check(body)
        version = _version(fan_out, body)
    except BaseException:
        outgoing.body.close()
        raise
    return await _run(plane, fan_out, outgoing, version)


async def _run(plane: ControlPlane, fan_out: FanOut, outgoing: Outgoing, version: str | None) -> Response:
    drain_limit_s = plane.settings.drain_timeout_s if fan_out.timeout_s is None else fan_out.timeout_s
    return await answer(await plane.refitter.run(fan_out.workers, Refit(outgoing, version, drain_limit_s)))


async def _small(body: Spool) -> bytes:
    if body.size_bytes > JSON_MAX_BYTES:
        raise BodyTooLarge(JSON_MAX_BYTES)
    return b"".join([chunk async for chunk in body.chunks()])


def _version(fan_out: FanOut, body: Mapping[str, object]) -> str | None:
    """Give the version that the query or the body names; None where neither does.

    Raises:
        InvalidField: they name different ones, or it is no version.
    """
    in_query, in_body = fan_out.own.get("weight_version"), body.get("weight_version")
    if isinstance(in_body, int) and not isinstance(in_body, bool):
        in_body = str(in_body)
    if in_body is not None and not isinstance(in_body, str):
        raise InvalidField("weight_version", "'weight_version' must be a string")
    if None not in (in_query, in_body) and in_query != in_body:
        raise InvalidField("weight_version", "'weight_version' differs between the query and the body")
    return _checked(in_body if in_query is None else in_query)


def _checked(version: str | None) -> str | None:
    if version is not None and not (version.isprintable() and 0 < len(version) <= VERSION_MAX):
        raise InvalidField("weight_version", f"'weight_version' must have 1 to {VERSION_MAX} printable characters")
    return version
