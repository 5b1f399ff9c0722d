"""Routes for the models that the workers serve: `GET /v1/models` and `GET /v1/models/{id}`."""

from __future__ import annotations

from fastapi import APIRouter, Response
from starlette.responses import JSONResponse

from sglang_diffusion_routing.api.plane import Plane
from sglang_diffusion_routing.api.replies import errors
from sglang_diffusion_routing.errors import NoEligibleWorker, NoWorkerAnswered, UnknownModel
from sglang_diffusion_routing.schemas import ModelList

router = APIRouter(tags=["models"])


@router.get("/v1/models", response_model=ModelList, responses=errors(NoEligibleWorker, NoWorkerAnswered))
async def list_models(plane: Plane) -> Response:
    """List the models that any worker serves, each once."""
    return JSONResponse({"object": "list", "data": await plane.lists.models()})


@router.get("/v1/models/{model:path}", responses=errors(NoEligibleWorker, NoWorkerAnswered, UnknownModel))
async def get_model(model: str, plane: Plane) -> Response:
    """Show one model; ids may hold slashes."""
    for row in await plane.lists.models():
        if row["id"] == model:
            return JSONResponse(row)
    raise UnknownModel(model)
