"""Routes for lists of jobs over all workers: `GET /v1/videos` and `GET /v1/meshes`."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Response
from starlette.responses import JSONResponse

from sglang_diffusion_routing.api.plane import Plane
from sglang_diffusion_routing.api.queries import each_once
from sglang_diffusion_routing.api.replies import errors
from sglang_diffusion_routing.control.lists import Wanted
from sglang_diffusion_routing.control.merging import Order
from sglang_diffusion_routing.errors import InvalidField, NoEligibleWorker, NoWorkerAnswered
from sglang_diffusion_routing.schemas import ListQuery, ObjectList

router = APIRouter(tags=["jobs"], dependencies=[Depends(each_once)])


async def _merged(kind: Literal["videos", "meshes"], query: ListQuery, plane: Plane) -> Response:
    page = await plane.lists.jobs(Wanted(kind, Order(query.order), query.limit, query.after))
    return JSONResponse(page.to_wire())


@router.get("/v1/videos", response_model=ObjectList, responses=errors(InvalidField, NoEligibleWorker, NoWorkerAnswered))
async def list_videos(query: Annotated[ListQuery, Query()], plane: Plane) -> Response:
    """List all workers' videos in one list, newest first."""
    return await _merged("videos", query, plane)


@router.get("/v1/meshes", response_model=ObjectList, responses=errors(InvalidField, NoEligibleWorker, NoWorkerAnswered))
async def list_meshes(query: Annotated[ListQuery, Query()], plane: Plane) -> Response:
    """List all workers' meshes in one list, newest first."""
    return await _merged("meshes", query, plane)
