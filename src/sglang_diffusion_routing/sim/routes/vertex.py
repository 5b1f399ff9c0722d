"""Vertex AI's route, which answers 200 with errors inside."""

import asyncio
import base64
import uuid
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from sglang_diffusion_routing.sim import png
from sglang_diffusion_routing.sim.engine import SchedulerDead
from sglang_diffusion_routing.sim.routes.bodies import VertexGenerateReqInput
from sglang_diffusion_routing.sim.routes.common import TheWorker, plan_of, require_image_input, stamp
from sglang_diffusion_routing.sim.sampler import Plan, Sample
from sglang_diffusion_routing.sim.worker import JobFailed, Worker

router = APIRouter()


@router.post("/vertex_generate")
async def vertex_generate(body: VertexGenerateReqInput, worker: TheWorker) -> JSONResponse:
    """Make one image, or the first frame of one video, for each instance; the stamp is that of the last one made."""
    parameters = body.parameters or {}
    profile = worker.settings.profile
    plans = []
    for instance in body.instances:
        require_image_input(profile, has_image=bool(instance.get("image") or instance.get("image_url")))
        plans.append(
            plan_of(
                profile,
                str(instance.get("prompt") or instance.get("text")),
                width=parameters.get("width"),
                height=parameters.get("height"),
                frames=parameters.get("num_frames"),
            )
        )
    results = await asyncio.gather(*(_predict(worker, plan) for plan in plans))
    weights = next((weights for weights, _ in reversed(results) if weights), "")
    return JSONResponse({"predictions": [prediction for _, prediction in results]}, headers=stamp(weights))


async def _predict(worker: Worker, plan: Plan) -> tuple[str, dict[str, Any]]:
    """Give the weights that it ran on and the prediction; no file is kept, though a real worker keeps one."""
    request_id = f"vertex_{uuid.uuid4()}"

    def finish(samples: list[Sample], seconds: float) -> dict[str, Any]:
        return _prediction(request_id, png.encode(png.to_pixels(samples[0].pictures()[0])), seconds)

    try:
        made = await worker.generate("vertex", request_id, plan, finish)
    except (JobFailed, SchedulerDead) as error:
        return "", {"error": str(error)}
    return made.weights, made.value


def _prediction(request_id: str, image: bytes, seconds: float) -> dict[str, Any]:
    return {
        "output": base64.b64encode(image).decode(),
        "raw_frame_batches": None,
        "raw_frame_content_type": "application/x-raw-rgb",
        "raw_frame_metadata": None,
        "audio": None,
        "audio_sample_rate": None,
        "fps": None,
        "action_pred": None,
        "action_mode": None,
        "action_domain_id": None,
        "action_raw_action_dim": None,
        "trajectory_timesteps": None,
        "trajectory_latents": None,
        "rollout_trajectory_data": None,
        "trajectory_decoded": None,
        "error": None,
        "output_file_paths": [f"outputs/{request_id}.png"],
        "output_image_bytes": None,
        "lidar": None,
        "metrics": {
            "request_id": request_id,
            "stages": {},
            "denoising_stages": ["DenoisingStage"],
            "steps": [],
            "total_duration_ms": seconds * 1000.0,
            "warmup_failed": False,
            "memory_snapshots": {},
        },
        "metrics_list": None,
        "noise_pred": None,
        "peak_memory_mb": 0.0,
        "usage": None,
    }
