"""Meshes: jobs like videos, made from an image. The files are GLB whatever format was asked for."""

import hashlib
import time
import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import FileResponse, JSONResponse

from sglang_diffusion_routing.sim import glb
from sglang_diffusion_routing.sim.jobs import Job, Made
from sglang_diffusion_routing.sim.routes.bodies import MeshGenerationsRequest
from sglang_diffusion_routing.sim.routes.common import (
    TheWorker,
    bad_request,
    file_of,
    found,
    is_multipart,
    lenient_json,
    plan_of,
    require_image_input,
    require_output,
    shown,
)
from sglang_diffusion_routing.sim.sampler import Plan, Sample
from sglang_diffusion_routing.sim.worker import Worker

router = APIRouter(prefix="/v1/meshes")


@router.post("")
async def create_mesh(request: Request, worker: TheWorker) -> JSONResponse:
    """Queue a mesh and answer at once."""
    body, image = await _read(request)
    profile = worker.settings.profile
    require_image_input(profile, has_image=True)
    require_output(profile, "MESH")
    plan = plan_of(profile, f"{body.prompt} {image}", steps=body.num_inference_steps, seed=body.seed)
    return _queue(worker, plan, body.model or "")


async def _read(request: Request) -> tuple[MeshGenerationsRequest, str]:
    """Read the request and name its image: the hash of an upload, or what stands for it."""
    image: str | None
    if is_multipart(request):
        async with request.form() as form:
            sources = [*form.getlist("image"), *form.getlist("image[]"), *form.getlist("url"), *form.getlist("url[]")]
            if not sources:
                raise HTTPException(status_code=422, detail="Field 'image' or 'url' is required for mesh generation")
            first = sources[0]
            image = first if isinstance(first, str) else hashlib.sha256(await first.read()).hexdigest()
            fields: dict[str, Any] = {name: value for name, value in form.items() if isinstance(value, str)}
    else:
        fields = await lenient_json(request)
        image = fields.get("input_image")
    try:
        body = MeshGenerationsRequest(**fields)
    except ValueError as error:
        raise bad_request(f"Invalid request body: {error}") from error
    if not image:
        raise HTTPException(status_code=422, detail="An input image is required for mesh generation")
    return body, image


def _queue(worker: Worker, plan: Plan, model: str) -> JSONResponse:
    mesh_id = str(uuid.uuid4())
    files = worker.outputs.files(mesh_id, "glb", 1)
    job = Job(
        {
            "id": mesh_id,
            "object": "mesh",
            "model": model,
            "status": "queued",
            "progress": 0,
            "created_at": int(time.time()),
            "format": "glb",
            "url": None,
            "completed_at": None,
            "expires_at": None,
            "error": None,
            "file_path": str(files[0]),
            "file_size_bytes": None,
            "peak_memory_mb": None,
            "inference_time_s": None,
        },
        files,
    )

    def finish(samples: list[Sample], _seconds: float) -> int:
        return files[0].write_bytes(glb.height_field(samples[0].latent[0]))

    def facts(made: Made[int]) -> dict[str, Any]:
        return {"file_size_bytes": made.value}

    reply = shown(job)
    worker.meshes.put(job)
    # progress is told for videos only: a mesh is queued until it is done
    work = worker.generation(mesh_id, plan, finish, lambda _share: None)
    future = worker.engine.submit("mesh", work, request_id=mesh_id)
    future.add_done_callback(lambda ended: job.settle(ended, facts))
    return reply


@router.get("")
async def list_meshes(
    worker: TheWorker,
    after: Annotated[str | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Annotated[Literal["asc", "desc"], Query()] = "desc",
) -> dict[str, Any]:
    """List the jobs of this worker."""
    return worker.meshes.page(after=after, limit=limit, order=order)


@router.get("/{mesh_id}")
async def retrieve_mesh(mesh_id: str, worker: TheWorker) -> JSONResponse:
    """Show one job."""
    return shown(found(worker.meshes.get(mesh_id), "Mesh"))


@router.delete("/{mesh_id}")
async def delete_mesh(mesh_id: str, worker: TheWorker) -> JSONResponse:
    """Forget a job; its work is not cancelled."""
    job = found(worker.meshes.pop(mesh_id), "Mesh")
    job.shown["status"] = "deleted"
    return shown(job)


@router.get("/{mesh_id}/content")
async def content(mesh_id: str, worker: TheWorker, variant: Annotated[str | None, Query()] = None) -> FileResponse:
    """Send a finished mesh's file."""
    job = found(worker.meshes.get(mesh_id), "Mesh")
    if job.shown["status"] != "completed":
        raise HTTPException(status_code=404, detail="Mesh output is not available")
    return file_of(job, "Mesh", variant, "model/gltf-binary")
