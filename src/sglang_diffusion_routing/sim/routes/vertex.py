"""Vertex AI's route, which answers 200 with errors inside."""

import asyncio
import base64
import uuid
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from sglang_diffusion_routing.sim import png
from sglang_diffusion_routing.sim.engine import SchedulerDead
from sglang_diffusion_routing.sim.routes.common import TheWorker, plan_of, require_image_input, stamp
from sglang_diffusion_routing.sim.sampler import Plan, Sample
from sglang_diffusion_routing.sim.worker import JobFailed, Made, Worker

NOTHING = (
    "raw_frame_batches",
    "raw_frame_metadata",
    "audio",
    "audio_sample_rate",
    "fps",
    "action_pred",
    "action_mode",
    "action_domain_id",
    "action_raw_action_dim",
    "trajectory_timesteps",
    "trajectory_latents",
    "rollout_trajectory_data",
    "trajectory_decoded",
    "error",
    "output_image_bytes",
    "lidar",
    "metrics_list",
    "noise_pred",
    "usage",
)

router = APIRouter()


class VertexGenerateReqInput(BaseModel):
    """A batch of prompts with common parameters."""

    instances: list[dict[str, Any]]
    parameters: dict[str, Any] | None = None
    rid: str | list[str] | None = None
    http_worker_ipc: str | None = None


@router.post("/vertex_generate")
async def vertex_generate(body: VertexGenerateReqInput, worker: TheWorker) -> JSONResponse:
    """Make one image or the first frame of one video for each instance."""
    parameters = body.parameters or {}
    profile = worker.settings.profile
    plans = []
    for instance in body.instances:
        image = instance.get("image") or instance.get("image_url")
        require_image_input(profile, has_image=image is not None)
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
    headers = next((stamp(made) for made, _ in results if made is not None), None)
    return JSONResponse({"predictions": [prediction for _, prediction in results]}, headers=headers)


async def _predict(worker: Worker, plan: Plan) -> tuple[Made[dict[str, Any]] | None, dict[str, Any]]:
    request_id = f"vertex_{uuid.uuid4()}"

    def finish(samples: list[Sample], seconds: float) -> dict[str, Any]:
        colours = samples[0].colours if plan.frames is None else samples[0].colours[:, 0]
        path = worker.outputs.path / f"{request_id}.png"
        path.write_bytes(png.encode(png.to_bytes(colours)))
        metrics: dict[str, Any] = {
            "request_id": request_id,
            "stages": {},
            "denoising_stages": ["DenoisingStage"],
            "steps": [],
        }
        metrics |= {"total_duration_ms": seconds * 1000.0, "warmup_failed": False, "memory_snapshots": {}}
        return {
            **dict.fromkeys(NOTHING),
            "output": base64.b64encode(path.read_bytes()).decode(),
            "raw_frame_content_type": "application/x-raw-rgb",
            "output_file_paths": [str(path)],
            "metrics": metrics,
            "peak_memory_mb": 0.0,
        }

    try:
        made = await worker.generate("vertex", request_id, plan, finish)
    except (JobFailed, SchedulerDead) as error:
        return None, {"error": str(error)}
    return made, made.value
