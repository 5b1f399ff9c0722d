"""Native generation of an older fork: JSON with the trajectory and log-probabilities as base64 .npy files.

The request has a rollout's sampling fields plus `get_latents` and `get_log_probs`. The reply:

    {"id", "output_b64": PNG, "output_format": "png", "prompt", "seed", "inference_time_s", "peak_memory_mb",
     "trajectory": null | {"latents", "latents_shape": [1, T + 1, ...], "latents_dtype", "timesteps": [one a latent],
                           "log_probs", "log_probs_shape": [1, T], "log_probs_dtype"}}

A part that was not asked for is null. Asking for log-probabilities makes the run a rollout, with `rollout_sde_type` and
`rollout_noise_level`.
"""

import base64
import uuid
from typing import Any

from fastapi import APIRouter, HTTPException
from fastapi.responses import JSONResponse

from sglang_diffusion_routing.sim import png
from sglang_diffusion_routing.sim.engine import SchedulerDead
from sglang_diffusion_routing.sim.routes.bodies import NativeRequest
from sglang_diffusion_routing.sim.routes.common import TheWorker, padding, plan_of, require_image_input, stamp
from sglang_diffusion_routing.sim.routes.rollout import rollout_plan
from sglang_diffusion_routing.sim.sampler import Plan, Sample
from sglang_diffusion_routing.sim.tensors import npy_base64
from sglang_diffusion_routing.sim.worker import JobFailed, Worker

router = APIRouter(include_in_schema=False)


@router.post("/v1/diffusion/generate")
async def generate(body: NativeRequest, worker: TheWorker) -> JSONResponse:
    """Make one sample."""
    request_id = str(uuid.uuid4())
    plan = _plan(body, worker)

    def finish(samples: list[Sample], seconds: float) -> dict[str, Any]:
        return _reply(body, worker, request_id, samples[0], seconds)

    try:
        made = await worker.generate("native", request_id, plan, finish)
    except SchedulerDead as error:
        raise HTTPException(status_code=500, detail=f"Generation failed: {error}") from error
    except JobFailed as error:
        raise HTTPException(status_code=500, detail=str(error)) from error
    return JSONResponse(made.value, headers=stamp(made.weights))


def _plan(body: NativeRequest, worker: Worker) -> Plan:
    recorded = body.rollout or body.get_log_probs or body.get_latents
    rollout = None
    if recorded:
        asked = body.model_copy(update={"rollout_return_dit_trajectory": body.get_latents})
        if not (body.rollout or body.get_log_probs):  # the latents of a plain run: Euler steps, nothing to weigh
            asked = asked.model_copy(update={"rollout_sde_type": "ode", "rollout_log_prob_no_const": True})
        rollout = rollout_plan(asked)
    require_image_input(worker.settings.profile, has_image=body.image_path is not None)
    return plan_of(
        worker.settings.profile,
        " ".join([body.prompt, *(body.image_path or [])]),
        width=body.width,
        height=body.height,
        steps=body.num_inference_steps,
        frames=body.num_frames,
        seed=body.seed,
        rollout=rollout,
    )


def _reply(body: NativeRequest, worker: Worker, request_id: str, made: Sample, seconds: float) -> dict[str, Any]:
    reply: dict[str, Any] = {
        "id": request_id,
        "output_b64": base64.b64encode(png.encode(png.to_pixels(made.pictures()[0]))).decode(),
        "output_format": "png",
        "prompt": body.prompt,
        "seed": made.seed,
        "inference_time_s": seconds,
        "peak_memory_mb": None,
        "trajectory": _trajectory(body, made) if body.get_latents or body.get_log_probs else None,
    }
    if worker.settings.pad_reply_bytes:
        reply["sim_padding"] = base64.b64encode(padding(worker)).decode()
    return reply


def _trajectory(body: NativeRequest, made: Sample) -> dict[str, Any]:
    part: dict[str, Any] = dict.fromkeys(
        ["latents", "latents_shape", "latents_dtype", "timesteps", "log_probs", "log_probs_shape", "log_probs_dtype"]
    )
    if made.trajectory is not None and made.timesteps is not None:
        latents = made.trajectory[None]
        part |= {"latents": npy_base64(latents), "latents_shape": list(latents.shape), "latents_dtype": "float32"}
        part["timesteps"] = [npy_base64(timestep) for timestep in made.timesteps.reshape(-1, 1)]
    if body.get_log_probs and made.log_probs is not None:
        log_probs = made.log_probs[None]
        part |= {"log_probs": npy_base64(log_probs), "log_probs_shape": list(log_probs.shape)}
        part["log_probs_dtype"] = "float32"
    return part
