"""Rollouts: samples with everything that a policy gradient needs, as msgpack."""

import math
import uuid
from typing import Any

import msgpack
from fastapi import APIRouter, HTTPException
from fastapi.responses import Response

from sglang_diffusion_routing.sim.engine import SchedulerDead
from sglang_diffusion_routing.sim.prompts import embeddings_of
from sglang_diffusion_routing.sim.routes.bodies import RolloutRequest
from sglang_diffusion_routing.sim.routes.common import (
    TheWorker,
    bad_request,
    padding,
    plan_of,
    require_image_input,
    stamp,
)
from sglang_diffusion_routing.sim.sampler import Plan, RolloutPlan, Sample
from sglang_diffusion_routing.sim.sde import SDE_TYPES
from sglang_diffusion_routing.sim.tensors import Array, packed
from sglang_diffusion_routing.sim.worker import JobFailed, Worker

router = APIRouter(prefix="/rollout")


@router.post("/generate", response_class=Response)
async def generate(body: RolloutRequest, worker: TheWorker) -> Response:
    """Sample, and reply with one entry a sample; without a seed the reply fails after the work is done."""
    request_id = str(uuid.uuid4())
    plan = _plan(body, worker)

    def finish(samples: list[Sample], seconds: float) -> bytes:
        if body.seed is None:
            return b""
        return _pack([_entry(body, worker, request_id, made, seconds) for made in samples])

    try:
        made = await worker.generate("rollout", request_id, plan, finish)
    except SchedulerDead as error:
        raise HTTPException(status_code=500, detail=f"Generation failed: {error}") from error
    except JobFailed as error:
        raise HTTPException(status_code=500, detail=str(error)) from error
    if body.seed is None:
        raise TypeError("the reply's seed must be an integer")  # unhandled, as the real worker's own check is
    return Response(made.value, media_type="application/msgpack", headers=stamp(made.weights))


def _plan(body: RolloutRequest, worker: Worker) -> Plan:
    profile = worker.settings.profile
    try:
        plan = plan_of(
            profile,
            " ".join([body.prompt, *(body.image_path or [])]),
            width=body.width,
            height=body.height,
            steps=body.num_inference_steps,
            frames=body.num_frames,
            outputs=body.num_outputs_per_prompt,
            seed=body.seed,
            rollout=rollout_plan(body) if body.rollout else None,
        )
        require_image_input(profile, has_image=body.image_path is not None)
    except HTTPException as error:
        raise bad_request(f"Invalid sampling params: {error.status_code}: {error.detail}") from error
    return plan


def rollout_plan(body: RolloutRequest) -> RolloutPlan:
    """Check the rollout's own parameters as SGLang does (configs/post_training/rl_rollout.py)."""
    noise = body.rollout_noise_level
    if not math.isfinite(noise):
        raise bad_request(f"rollout_noise_level must be finite, got {noise!r}")
    if noise < 0:
        raise bad_request(f"rollout_noise_level must be non-negative, got {noise!r}")
    chosen = next((known for known in SDE_TYPES if known == body.rollout_sde_type), None)
    if chosen is None:
        raise bad_request(f"rollout_sde_type must be one of {SDE_TYPES}, got {body.rollout_sde_type!r}")
    return RolloutPlan(
        sde_type=chosen,
        noise_level=noise,
        without_constants=body.rollout_log_prob_no_const,
        debug=body.rollout_debug_mode,
        sde_steps=None if body.rollout_sde_step_indices is None else frozenset(body.rollout_sde_step_indices),
        trajectory=body.rollout_return_dit_trajectory,
        return_steps=None if body.rollout_return_step_indices is None else frozenset(body.rollout_return_step_indices),
    )


def _entry(body: RolloutRequest, worker: Worker, request_id: str, made: Sample, seconds: float) -> dict[str, Any]:
    debug = {
        "rollout_variance_noises": _packed(made.noises),
        "rollout_prev_sample_means": _packed(made.means),
        "rollout_noise_std_devs": _packed(made.stds),
        "rollout_model_outputs": _packed(made.model_outputs),
    }
    trajectory = {
        "latents": _packed(made.trajectory),
        "timesteps": _packed(made.timesteps),
        "sigmas": _packed(made.sigmas),
    }
    entry: dict[str, Any] = {
        "request_id": request_id,
        "prompt": body.prompt,
        "seed": body.seed,
        "generated_output": packed(made.colours()),
        "rollout_log_probs": _packed(made.log_probs),
        "rollout_debug_tensors": debug if made.noises is not None else None,
        "denoising_env": _environment(body) if body.rollout and body.rollout_return_denoising_env else None,
        "dit_trajectory": trajectory if made.trajectory is not None else None,
        "inference_time_s": seconds,
        "peak_memory_mb": None,
    }
    if worker.settings.pad_reply_bytes:
        entry["sim_padding"] = padding(worker)
    return entry


def _environment(body: RolloutRequest) -> dict[str, Any]:
    return {
        "image_kwargs": None,
        "pos_cond_kwargs": {name: packed(tensor) for name, tensor in embeddings_of(body.prompt).items()},
        "neg_cond_kwargs": {name: packed(tensor) for name, tensor in embeddings_of(body.negative_prompt or "").items()},
        "guidance": None,
    }


def _packed(tensor: Array | None) -> dict[str, Any] | None:
    return None if tensor is None else packed(tensor)


def _pack(entries: list[dict[str, Any]]) -> bytes:
    data: bytes = msgpack.packb(entries)
    return data
