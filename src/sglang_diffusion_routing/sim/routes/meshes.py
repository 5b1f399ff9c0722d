"""Meshes: jobs like videos, made from an image."""

import hashlib
import time
import uuid
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel

from sglang_diffusion_routing.sim import glb
from sglang_diffusion_routing.sim.engine import SchedulerDead
from sglang_diffusion_routing.sim.jobs import Job
from sglang_diffusion_routing.sim.routes.common import (
    TheWorker,
    bad_request,
    client_header,
    plan_of,
    require_image_input,
)
from sglang_diffusion_routing.sim.sampler import Plan, Sample
from sglang_diffusion_routing.sim.worker import Made, Worker

PUBLIC = (
    "id",
    "object",
    "model",
    "status",
    "progress",
    "created_at",
    "format",
    "url",
    "completed_at",
    "expires_at",
    "error",
    "file_path",
    "file_size_bytes",
    "peak_memory_mb",
    "inference_time_s",
)

router = APIRouter(prefix="/v1/meshes")


class MeshGenerationsRequest(BaseModel):
    """A mesh as SGLang takes it; the simulation always writes GLB."""

    prompt: str = "generate 3d mesh"
    input_image: str | None = None
    model: str | None = None
    seed: int | list[int] | None = None
    generator_device: str | None = "cuda"
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    output_format: str | None = "glb"


@router.post("")
async def create_mesh(request: Request, worker: TheWorker) -> JSONResponse:
    """Queue a mesh and answer at once."""
    body, image = await _read(request)
    profile = worker.settings.profile
    require_image_input(profile, has_image=True)
    plan = plan_of(profile, f"{body.prompt} {image}", steps=body.num_inference_steps, seed=body.seed)
    return _shown(_queue(worker, plan, body.model or ""))


async def _read(request: Request) -> tuple[MeshGenerationsRequest, str]:
    """Read the request and name its image: the hash of an upload, or the URL."""
    if "multipart/form-data" in client_header(request, "content-type"):
        form = await request.form()
        uploads = [*form.getlist("image"), *form.getlist("image[]"), *form.getlist("url"), *form.getlist("url[]")]
        if not uploads:
            raise HTTPException(status_code=422, detail="Field 'image' or 'url' is required for mesh generation")
        first = uploads[0]
        image: str | None = first if isinstance(first, str) else hashlib.sha256(await first.read()).hexdigest()
        fields: dict[str, Any] = {name: value for name, value in form.items() if isinstance(value, str)}
    else:
        try:
            fields = dict(await request.json() or {})
        except ValueError:  # not JSON, or no object: SGLang goes on with an empty body
            fields = {}
        image = fields.get("input_image")
    try:
        body = MeshGenerationsRequest(**fields)
    except ValueError as error:
        raise bad_request(f"Invalid request body: {error}") from error
    if not image:
        raise HTTPException(status_code=422, detail="An input image is required for mesh generation")
    return body, image


def _queue(worker: Worker, plan: Plan, model: str) -> Job:
    mesh_id = str(uuid.uuid4())
    path = worker.outputs.path / f"{mesh_id}.glb"
    job: Job = dict.fromkeys(PUBLIC)
    job |= {"id": mesh_id, "object": "mesh", "model": model, "status": "queued", "progress": 0}
    job |= {"created_at": int(time.time()), "format": "glb", "file_path": str(path), "weights": ""}
    shown = dict(job)
    worker.meshes.put(job)

    def finish(samples: list[Sample], _seconds: float) -> int:
        return path.write_bytes(glb.height_field(samples[0].latent[0]))

    future = worker.engine.submit(
        "mesh", worker.generation(mesh_id, plan, finish, lambda _share: None), request_id=mesh_id
    )
    future.add_done_callback(lambda ended: _settle(job, ended))
    return shown


def _settle(job: Job, ended: "Future[Made[int]]") -> None:
    """Write a job's end into its record; called on the engine's thread."""
    error = ended.exception()
    if error is not None:
        message = str(error)
        if not isinstance(error, SchedulerDead):
            message = f"Model generation failed. Error from scheduler: {message}"
        job |= {"status": "failed", "error": {"message": message}, "file_path": None}
        return
    made = ended.result()
    job |= {"progress": 100, "completed_at": int(time.time()), "file_size_bytes": made.value}
    job |= {"inference_time_s": made.seconds, "weights": made.weights, "status": "completed"}


def _shown(job: Job) -> JSONResponse:
    headers = {"x-sim-weights": job["weights"]} if job["weights"] else None
    return JSONResponse({name: job[name] for name in PUBLIC}, headers=headers)


@router.get("")
async def list_meshes(
    worker: TheWorker,
    after: Annotated[str | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Annotated[Literal["asc", "desc"], Query()] = "desc",
) -> dict[str, Any]:
    """List the jobs of this worker."""
    page = worker.meshes.page(after=after, limit=limit, order=order)
    data = [{name: job[name] for name in PUBLIC} for job in page.pop("data")]
    return {"data": data, "object": "list", **page}


@router.get("/{mesh_id}")
async def retrieve_mesh(mesh_id: str, worker: TheWorker) -> JSONResponse:
    """Show one job."""
    return _shown(_found(worker.meshes.get(mesh_id)))


@router.delete("/{mesh_id}")
async def delete_mesh(mesh_id: str, worker: TheWorker) -> JSONResponse:
    """Forget a job; its work is not cancelled."""
    job = _found(worker.meshes.pop(mesh_id))
    job["status"] = "deleted"
    return _shown(job)


@router.get("/{mesh_id}/content")
async def content(mesh_id: str, worker: TheWorker) -> FileResponse:
    """Send a finished mesh's file."""
    job = _found(worker.meshes.get(mesh_id))
    if job["status"] != "completed":
        raise HTTPException(status_code=404, detail="Mesh output is not available")
    path = Path(job["file_path"])
    return FileResponse(
        path, media_type="model/gltf-binary", filename=path.name, headers={"x-sim-weights": job["weights"]}
    )


def _found(job: Job | None) -> Job:
    if job is None:
        raise HTTPException(status_code=404, detail="Mesh not found")
    return job
