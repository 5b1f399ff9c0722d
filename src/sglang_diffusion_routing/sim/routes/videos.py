"""OpenAI's videos: jobs that are created, polled, fetched and deleted."""

import time
import uuid
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, ConfigDict

from sglang_diffusion_routing.sim import mp4, png
from sglang_diffusion_routing.sim.engine import SchedulerDead
from sglang_diffusion_routing.sim.jobs import Job
from sglang_diffusion_routing.sim.routes.common import (
    MOST_OUTPUTS,
    TheWorker,
    bad_request,
    client_header,
    plan_of,
    require_image_input,
    require_output,
)
from sglang_diffusion_routing.sim.sampler import Plan, Sample
from sglang_diffusion_routing.sim.worker import Made, Worker

DEFAULT_FPS = 24
DEFAULT_SECONDS = 4
PUBLIC = (
    "id",
    "object",
    "model",
    "status",
    "progress",
    "created_at",
    "size",
    "seconds",
    "quality",
    "url",
    "urls",
    "remixed_from_video_id",
    "completed_at",
    "expires_at",
    "error",
    "file_path",
    "file_paths",
    "num_outputs",
    "peak_memory_mb",
    "inference_time_s",
    "revised_prompt",
    "action",
    "lidar",
)

router = APIRouter(prefix="/v1/videos")


class VideoGenerationsRequest(BaseModel):
    """The fields that the simulation reads; its name stands in the real worker's error messages."""

    model_config = ConfigDict(extra="allow")

    prompt: str
    input_reference: str | None = None
    model: str | None = None
    n: int | None = 1
    num_outputs_per_prompt: int | None = None
    seconds: int | None = DEFAULT_SECONDS
    size: str | None = ""
    fps: int | None = None
    num_frames: int | None = None
    width: int | None = None
    height: int | None = None
    seed: int | list[int] | None = None
    num_inference_steps: int | None = None


@router.post("")
async def create_video(request: Request, worker: TheWorker) -> JSONResponse:
    """Queue a video and answer at once, whatever becomes of it."""
    body = await _read(request)
    profile = worker.settings.profile
    require_output(profile, "VIDEO")
    require_image_input(profile, has_image=bool(body.input_reference))
    fps = body.fps or DEFAULT_FPS
    outputs = body.num_outputs_per_prompt if body.num_outputs_per_prompt is not None else body.n or 1
    plan = plan_of(
        profile,
        body.prompt,
        size=body.size,
        width=body.width,
        height=body.height,
        steps=body.num_inference_steps,
        frames=body.num_frames if body.num_frames is not None else fps * (body.seconds or DEFAULT_SECONDS),
        outputs=max(1, min(outputs, MOST_OUTPUTS)),
        seed=body.seed,
    )
    job = _queue(worker, plan, fps, body.model or worker.settings.effective_served_model_name)
    return _shown(job)


async def _read(request: Request) -> VideoGenerationsRequest:
    if "multipart/form-data" in client_header(request, "content-type"):
        form = await request.form()
        fields: dict[str, Any] = {name: value for name, value in form.items() if isinstance(value, str)}
        if not fields.get("prompt"):
            raise bad_request("prompt is required")
        reference = form.get("input_reference")
        if reference is not None and not isinstance(reference, str):
            fields["input_reference"] = reference.filename
    else:
        try:
            fields = dict(await request.json() or {})
        except ValueError:  # not JSON, or no object: SGLang goes on with an empty body
            fields = {}
    try:
        return VideoGenerationsRequest(**fields)
    except ValueError as error:
        raise bad_request(f"Invalid request body: {error}") from error


def _queue(worker: Worker, plan: Plan, fps: int, model: str) -> Job:
    video_id = str(uuid.uuid4())
    frames = plan.frames or 1
    names = [f"{video_id}.mp4"] if len(plan.seeds) == 1 else [f"{video_id}_{i}.mp4" for i in range(len(plan.seeds))]
    paths = [worker.outputs.path / name for name in names]
    job: Job = dict.fromkeys(PUBLIC)
    job |= {"id": video_id, "object": "video", "model": model, "status": "queued", "progress": 0}
    job |= {"created_at": int(time.time()), "size": f"{plan.width}x{plan.height}", "quality": "standard"}
    job |= {"seconds": str(round(frames / fps)), "file_path": str(paths[0]), "weights": ""}
    shown = dict(job)
    worker.videos.put(job)

    def on_progress(share: float) -> None:
        if job["status"] in {"queued", "in_progress"}:  # a deleted job stays deleted, and its work goes on
            job["status"] = "in_progress"
            job["progress"] = max(job["progress"], min(int(100 * share), 99))

    def finish(samples: list[Sample], _seconds: float) -> None:
        for path, made in zip(paths, samples, strict=True):
            path.write_bytes(_film(made, fps))

    future = worker.engine.submit("video", worker.generation(video_id, plan, finish, on_progress), request_id=video_id)
    future.add_done_callback(lambda ended: _settle(job, paths, ended))
    return shown


def _settle(job: Job, paths: list[Path], ended: "Future[Made[None]]") -> None:
    """Write a job's end into its record; called on the engine's thread."""
    error = ended.exception()
    if error is not None:
        message = str(error)
        if not isinstance(error, SchedulerDead):
            message = f"Model generation failed. Error from scheduler: {message}"
        job |= {"status": "failed", "error": {"message": message}, "file_path": None}
        return
    made = ended.result()
    job |= {"progress": 100, "completed_at": int(time.time()), "urls": [None] * len(paths)}
    job |= {"file_paths": [str(path) for path in paths], "num_outputs": len(paths)}
    job |= {"inference_time_s": made.seconds, "weights": made.weights, "status": "completed"}


def _film(made: Sample, fps: int) -> bytes:
    frames = [png.encode(png.to_bytes(made.colours[:, index])) for index in range(made.colours.shape[1])]
    _, _, height, width = made.colours.shape
    return mp4.encode(frames, width=width, height=height, fps=fps)


def _shown(job: Job) -> JSONResponse:
    headers = {"x-sim-weights": job["weights"]} if job["weights"] else None
    return JSONResponse({name: job[name] for name in PUBLIC}, headers=headers)


@router.get("")
async def list_videos(
    worker: TheWorker,
    after: Annotated[str | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Annotated[Literal["asc", "desc"], Query()] = "desc",
) -> dict[str, Any]:
    """List the jobs of this worker."""
    page = worker.videos.page(after=after, limit=limit, order=order)
    data = [{name: job[name] for name in PUBLIC} for job in page["data"]]
    return {
        "data": data,
        "object": "list",
        "first_id": page["first_id"],
        "last_id": page["last_id"],
        "has_more": page["has_more"],
    }


@router.get("/{video_id}")
async def retrieve_video(video_id: str, worker: TheWorker) -> JSONResponse:
    """Show one job."""
    return _shown(_found(worker.videos.get(video_id)))


@router.delete("/{video_id}")
async def delete_video(video_id: str, worker: TheWorker) -> JSONResponse:
    """Forget a job; its work is not cancelled."""
    job = _found(worker.videos.pop(video_id))
    job["status"] = "deleted"
    return _shown(job)


@router.get("/{video_id}/content")
async def content(video_id: str, worker: TheWorker, variant: Annotated[str | None, Query()] = None) -> FileResponse:
    """Send a finished video's file, or the range of it that was asked for."""
    job = _found(worker.videos.get(video_id))
    if job["status"] not in {"completed", "failed"}:
        raise HTTPException(status_code=404, detail="Generation is still in-progress")
    paths = job["file_paths"] or []
    index = 0 if variant is None else int(variant) if variant.isdecimal() else -1
    if not 0 <= index < len(paths):
        raise HTTPException(status_code=404, detail=f"Video variant {variant} not found")
    path = Path(paths[index])
    return FileResponse(path, media_type="video/mp4", filename=path.name, headers={"x-sim-weights": job["weights"]})


def _found(job: Job | None) -> Job:
    if job is None:
        raise HTTPException(status_code=404, detail="Video not found")
    return job
