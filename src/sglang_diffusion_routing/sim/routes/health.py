"""Whether the worker is up, and what it serves."""

import asyncio
import time
from typing import Any

from fastapi import APIRouter, HTTPException
from fastapi.responses import JSONResponse, Response

from sglang_diffusion_routing.sim.engine import SchedulerDead
from sglang_diffusion_routing.sim.routes.common import TheWorker
from sglang_diffusion_routing.sim.settings import SimSettings

ENGINE_VERSION = "0.5.23"  # of the SGLang whose surface this is

router = APIRouter()


@router.get("/liveness")
async def liveness() -> dict[str, str]:
    """Say that the HTTP process runs, whatever the scheduler does."""
    return {"status": "ok"}


@router.get("/health", response_model=None)
async def health(worker: TheWorker) -> dict[str, str] | Response:
    """Say whether work is taken: 503 with an empty body while warming up, with a reason when the scheduler is dead."""
    if worker.faults.health_delay_s:
        await asyncio.sleep(worker.faults.health_delay_s)
    if worker.engine.failure is not None:
        return JSONResponse({"status": "unhealthy", "error": worker.engine.failure}, status_code=503)
    if not worker.warm.is_set():
        return Response(status_code=503)
    return {"status": "ok"}


@router.get("/health_generate", response_model=None)
async def health_generate(worker: TheWorker) -> dict[str, str] | Response:
    """Answer as `/health`; nothing is generated."""
    return await health(worker)


@router.get("/models", deprecated=True)
async def models(worker: TheWorker) -> dict[str, Any]:
    """Describe the model, the old way."""
    profile, settings = worker.settings.profile, worker.settings
    return {
        "model_path": settings.effective_model_path,
        "num_gpus": settings.num_gpus,
        "task_type": profile.task_type,
        "supported_task_types": list(profile.supported_task_types),
        "dit_precision": "bf16",
        "vae_precision": "fp32",
        "vae_decode_precision": None,
        "pipeline_name": profile.pipeline,
        "pipeline_class": profile.pipeline,
    }


@router.get("/server_info")
async def server_info(worker: TheWorker) -> dict[str, Any]:
    """Describe the server, and say that it is a stand-in."""
    settings = worker.settings
    return {
        "model_path": settings.effective_model_path,
        "served_model_name": settings.effective_served_model_name,
        "tp_size": 1,
        "dp_size": 1,
        "version": ENGINE_VERSION,
        "simulated": True,
        "simulated_by": "sglang-diffusion-routing",
    }


@router.get("/model_info")
async def model_info(worker: TheWorker) -> dict[str, Any]:
    """Describe the model's abilities."""
    profile = worker.settings.profile
    return {
        "model_path": worker.settings.effective_model_path,
        "is_generation": True,
        "model_type": "diffusion",
        "architectures": [profile.pipeline],
        "has_image_understanding": profile.accepts_image,
        "has_audio_understanding": False,
        "task_type": profile.task_type,
        "supported_task_types": list(profile.supported_task_types),
        "output_types": list(profile.output_types),
        "is_image_gen": profile.is_image_gen,
    }


@router.get("/stats")
async def stats(worker: TheWorker) -> dict[str, Any]:
    """Ask the scheduler, behind all work before it."""
    reply: dict[str, Any] = {"status": "ok", "model_path": worker.settings.effective_model_path}
    try:
        reply["disagg"] = await worker.control("stats", lambda: {"role": "monolithic", "message": "not in disagg mode"})
    except SchedulerDead as error:
        reply["disagg"] = {"error": str(error)}
    return reply


@router.get("/v1/model_info")
async def v1_model_info(worker: TheWorker) -> dict[str, str]:
    """Give the model's path."""
    return {"model_path": worker.settings.effective_model_path}


@router.get("/v1/models")
async def v1_models(worker: TheWorker) -> dict[str, Any]:
    """List the one model served, as OpenAI does and with more facts."""
    return {"object": "list", "data": [_card(worker.settings)]}


@router.get("/v1/models/{model:path}", response_model=None)
async def v1_model(model: str, worker: TheWorker) -> dict[str, Any] | Response:
    """Describe the model if it is the one served."""
    if model == worker.settings.effective_served_model_name:
        return _card(worker.settings)
    return JSONResponse(
        {
            "error": {
                "message": f"The model '{model}' does not exist",
                "type": "invalid_request_error",
                "param": "model",
                "code": "model_not_found",
            }
        },
        status_code=404,
    )


def _card(settings: SimSettings) -> dict[str, Any]:
    profile = settings.profile
    return {
        "id": settings.effective_served_model_name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "sglang",
        "root": settings.effective_served_model_name,
        "parent": None,
        "max_model_len": None,
        "num_gpus": settings.num_gpus,
        "task_type": profile.task_type,
        "supported_task_types": list(profile.supported_task_types),
        "dit_precision": "bf16",
        "vae_precision": "fp32",
        "pipeline_name": profile.pipeline,
        "pipeline_class": profile.pipeline,
    }


@router.get("/metrics", include_in_schema=False)
async def metrics(worker: TheWorker) -> Response:
    """Give the queue's two gauges as Prometheus text; 404 unless the worker was started with `--enable-metrics`."""
    if not worker.settings.enable_metrics:
        raise HTTPException(status_code=404)
    labels = '{replica="sim",role="monolithic"}'
    running = 0.0 if worker.engine.running is None else 1.0
    lines = [
        "# HELP sglang:diffusion_num_queue_reqs Requests waiting for first dispatch.",
        "# TYPE sglang:diffusion_num_queue_reqs gauge",
        f"sglang:diffusion_num_queue_reqs{labels} {float(worker.engine.queued)}",
        "# HELP sglang:diffusion_num_running_reqs Dispatched requests not yet completed.",
        "# TYPE sglang:diffusion_num_running_reqs gauge",
        f"sglang:diffusion_num_running_reqs{labels} {running}",
        "",
    ]
    return Response("\n".join(lines), media_type="text/plain; version=0.0.4; charset=utf-8")
