"""OpenAI's videos: jobs that are created, polled, fetched and deleted."""

import time
import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import FileResponse, JSONResponse

from sglang_diffusion_routing.sim import mp4, png
from sglang_diffusion_routing.sim.jobs import Job, Made
from sglang_diffusion_routing.sim.routes.bodies import VideoGenerationsRequest
from sglang_diffusion_routing.sim.routes.common import (
    MOST_OUTPUTS,
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

DEFAULT_FPS = 24
DEFAULT_SECONDS = 4

router = APIRouter(prefix="/v1/videos")


@router.post("")
async def create_video(request: Request, worker: TheWorker) -> JSONResponse:
    """Queue a video and answer at once with 200 and "queued", whatever becomes of it."""
    body = await _read(request)
    profile = worker.settings.profile
    require_output(profile, "VIDEO")
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
    require_image_input(profile, has_image=bool(body.input_reference))
    return _queue(worker, plan, fps, body.model or worker.settings.effective_served_model_name)


async def _read(request: Request) -> VideoGenerationsRequest:
    if is_multipart(request):
        async with request.form() as form:
            fields: dict[str, Any] = {name: value for name, value in form.items() if isinstance(value, str)}
            reference = form.get("input_reference")
            if reference is not None and not isinstance(reference, str):
                fields["input_reference"] = reference.filename
        if not fields.get("prompt"):
            raise bad_request("prompt is required")
    else:
        fields = await lenient_json(request)
    try:
        return VideoGenerationsRequest(**fields)
    except ValueError as error:
        raise bad_request(f"Invalid request body: {error}") from error


def _queue(worker: Worker, plan: Plan, fps: int, model: str) -> JSONResponse:
    video_id = str(uuid.uuid4())
    files = worker.outputs.files(video_id, "mp4", len(plan.seeds))
    job = Job(
        {
            "id": video_id,
            "object": "video",
            "model": model,
            "status": "queued",
            "progress": 0,
            "created_at": int(time.time()),
            "size": f"{plan.width}x{plan.height}",
            "seconds": str(round((plan.frames or 1) / fps)),
            "quality": "standard",
            "url": None,
            "urls": None,
            "remixed_from_video_id": None,
            "completed_at": None,
            "expires_at": None,
            "error": None,
            "file_path": str(files[0]),
            "file_paths": None,
            "num_outputs": None,
            "peak_memory_mb": None,
            "inference_time_s": None,
            "revised_prompt": None,
            "action": None,
            "lidar": None,
        },
        files,
    )

    def finish(samples: list[Sample], _seconds: float) -> None:
        for path, made in zip(files, samples, strict=True):
            path.write_bytes(_film(made, plan, fps))

    def facts(_made: Made[None]) -> dict[str, Any]:
        return {
            "urls": [None] * len(files),
            "file_paths": [str(path) for path in files],
            "num_outputs": len(files),
        }

    reply = shown(job)
    worker.videos.put(job)
    work = worker.generation(video_id, plan, finish, job.progress)
    future = worker.engine.submit("video", work, request_id=video_id)
    future.add_done_callback(lambda ended: job.settle(ended, facts))
    return reply


def _film(made: Sample, plan: Plan, fps: int) -> bytes:
    images = [png.encode(png.to_pixels(picture)) for picture in made.pictures()]
    return mp4.encode([images[frame] for frame in made.frames()], width=plan.width, height=plan.height, fps=fps)


@router.get("")
async def list_videos(
    worker: TheWorker,
    after: Annotated[str | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Annotated[Literal["asc", "desc"], Query()] = "desc",
) -> dict[str, Any]:
    """List the jobs of this worker."""
    return worker.videos.page(after=after, limit=limit, order=order)


@router.get("/{video_id}")
async def retrieve_video(video_id: str, worker: TheWorker) -> JSONResponse:
    """Show one job."""
    return shown(found(worker.videos.get(video_id), "Video"))


@router.delete("/{video_id}")
async def delete_video(video_id: str, worker: TheWorker) -> JSONResponse:
    """Forget a job; its work is not cancelled."""
    job = found(worker.videos.pop(video_id), "Video")
    job.shown["status"] = "deleted"
    return shown(job)


@router.get("/{video_id}/content")
async def content(video_id: str, worker: TheWorker, variant: Annotated[str | None, Query()] = None) -> FileResponse:
    """Send a finished video's file, or the range of it that was asked for."""
    job = found(worker.videos.get(video_id), "Video")
    if job.shown["status"] not in {"completed", "failed"}:
        raise HTTPException(status_code=404, detail="Generation is still in-progress")
    return file_of(job, "Video", variant, "video/mp4")
