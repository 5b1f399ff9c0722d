from typing import Any

import pytest
from pydantic import BaseModel

from sglang_diffusion_routing.sim.routes import bodies

pytestmark = pytest.mark.core

# fields, with their defaults, of the schemas in a real worker's /openapi.json; "required" has none
IMAGE = (
    "background=auto diffusers_kwargs=None enable_teacache=False enable_upscaling=False enhance_prompt=False "
    "flow_shift=None generator_device=cuda guidance_scale=None height=None max_sequence_length=None model=None "
    "n=1 negative_prompt=None num_inference_steps=None num_profiled_timesteps=None output_compression=None "
    "output_format=None output_quality=default perf_dump_path=None profile=False profile_all_stages=False "
    "progressive_delta=None progressive_levels=None progressive_mode=None prompt=required quality=auto "
    "response_format=url seed=None size=1024x1024 style=vivid task_type=None true_cfg_scale=None "
    "upscaling_model_path=None upscaling_scale=4 user=None width=None"
)
ROLLOUT = (
    "extra_sampling_params=None fps=None generator_device=cuda guidance_scale=None height=None image_path=None "
    "negative_prompt=None num_frames=None num_inference_steps=None num_outputs_per_prompt=None prompt=required "
    "rollout=True rollout_debug_mode=True rollout_log_prob_no_const=False rollout_noise_level=0.7 "
    "rollout_return_denoising_env=False rollout_return_dit_trajectory=False rollout_return_step_indices=None "
    "rollout_sde_step_indices=None rollout_sde_type=sde seed=None suppress_logs=False true_cfg_scale=None "
    "width=None"
)
VERTEX = "http_worker_ipc=None instances=required parameters=None rid=None"


def described(body: type[BaseModel]) -> list[str]:
    def default(field: Any) -> str:
        return "required" if field.is_required() else str(field.default)

    return sorted(f"{name}={default(field)}" for name, field in body.model_fields.items())


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (bodies.ImageGenerationsRequest, IMAGE),
        (bodies.RolloutRequest, ROLLOUT),
        (bodies.VertexGenerateReqInput, VERTEX),
    ],
)
def test_the_fields_are_those_of_a_real_worker(body: type[BaseModel], fields: str) -> None:
    assert described(body) == fields.split()


def test_a_native_request_is_no_rollout_unless_it_says_so() -> None:
    request = bodies.NativeRequest(prompt="a")
    assert (request.rollout, request.get_latents, request.get_log_probs) == (False, False, False)
