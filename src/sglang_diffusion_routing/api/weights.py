"""Routes for the ledger of weights: what each group wants, what its workers have."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response

from sglang_diffusion_routing.api.bodies import read_model
from sglang_diffusion_routing.api.plane import Plane
from sglang_diffusion_routing.api.queries import each_once
from sglang_diffusion_routing.api.replies import errors, json_body, wire_long
from sglang_diffusion_routing.api.rl import answer
from sglang_diffusion_routing.control.selector import select
from sglang_diffusion_routing.errors import (
    BodyTooLarge,
    InvalidField,
    InvalidJson,
    InvalidWorkerUrl,
    NoEligibleWorker,
    TooManyRefits,
    UnknownWorker,
)
from sglang_diffusion_routing.schemas import FanOutReply, ReportWeights, WeightsReply

router = APIRouter(tags=["reinforcement learning"])

REPORT_MAX_BYTES = 1024 * 1024
"""A report that names as many workers as there may be."""


@router.get("/weights", response_model=WeightsReply, responses=errors(InvalidField), dependencies=[Depends(each_once)])
async def show_weights(plane: Plane) -> Response:
    """Show each group's target and history, and what each worker has."""
    return await wire_long(plane.weights.show())


@router.post(
    "/weights/reported",
    response_model=FanOutReply,
    responses=errors(
        InvalidField, InvalidJson, InvalidWorkerUrl, UnknownWorker, BodyTooLarge, NoEligibleWorker, TooManyRefits
    ),
    openapi_extra=json_body(ReportWeights, required=True),
)
async def report_weights(request: Request, plane: Plane) -> Response:
    """Take the trainer's word for weights that it has given to the engines without the router."""
    report = await read_model(request, ReportWeights, REPORT_MAX_BYTES)
    pool = plane.fleet.pool
    named = None if report.workers is None else select(",".join(report.workers), pool.workers.values())
    return await answer(await plane.weights.report(named, report.weight_version))
