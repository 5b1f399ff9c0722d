"""The request bodies of SGLang-Diffusion 0.5.23, field for field, so that what is refused with 422 is the same.

From openai/protocol.py, post_training/io_struct.py and `/openapi.json` of a real worker. What the simulated model has
no use for (guidance, caches, devices, quality) is checked for its type and then ignored.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict


class _Sampling(BaseModel):
    """What images and videos share; unknown fields are taken, as extensions of some model."""

    model_config = ConfigDict(extra="allow")

    prompt: str
    task_type: str | None = None
    enhance_prompt: bool = False
    model: str | None = None
    n: int | None = 1
    seed: int | list[int] | None = None
    generator_device: str | None = "cuda"
    width: int | None = None
    height: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    true_cfg_scale: float | None = None
    negative_prompt: str | None = None
    max_sequence_length: int | None = None
    flow_shift: float | None = None
    enable_teacache: bool | None = False
    enable_upscaling: bool | None = False
    upscaling_model_path: str | None = None
    upscaling_scale: int | None = 4
    output_quality: str | None = "default"
    output_compression: int | None = None
    diffusers_kwargs: dict[str, Any] | None = None
    perf_dump_path: str | None = None
    profile: bool | None = False
    num_profiled_timesteps: int | None = None
    profile_all_stages: bool | None = False


class ImageGenerationsRequest(_Sampling):
    """POST /v1/images/generations."""

    quality: str | None = "auto"
    response_format: str | None = "url"
    size: str | None = "1024x1024"
    style: str | None = "vivid"
    background: str | None = "auto"
    output_format: str | None = None
    user: str | None = None
    progressive_mode: str | None = None
    progressive_levels: int | None = None
    progressive_delta: float | None = None


class VideoGenerationsRequest(_Sampling):
    """POST /v1/videos; the name stands in the real worker's error messages."""

    input_reference: str | None = None
    reference_url: str | None = None
    video_path: str | None = None
    video_url: str | None = None
    num_outputs_per_prompt: int | None = None
    seconds: int | None = 4
    size: str | None = ""
    fps: int | None = None
    num_frames: int | None = None
    guidance_scale_2: float | None = None
    enable_frame_interpolation: bool | None = False
    frame_interpolation_exp: int | None = 1
    frame_interpolation_scale: float | None = 1.0
    frame_interpolation_model_path: str | None = None
    x264_preset: str | None = None
    output_path: str | None = None


class MeshGenerationsRequest(BaseModel):
    """POST /v1/meshes."""

    prompt: str = "generate 3d mesh"
    input_image: str | None = None
    model: str | None = None
    seed: int | list[int] | None = None
    generator_device: str | None = "cuda"
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    output_format: str | None = "glb"


class VertexGenerateReqInput(BaseModel):
    """POST /vertex_generate."""

    instances: list[dict[str, Any]]
    parameters: dict[str, Any] | None = None
    rid: str | list[str] | None = None
    http_worker_ipc: str | None = None


class RolloutRequest(BaseModel):
    """POST /rollout/generate; unknown fields are ignored."""

    prompt: str
    negative_prompt: str | None = None
    seed: int | None = None
    generator_device: str = "cuda"
    width: int | None = None
    height: int | None = None
    num_inference_steps: int | None = None
    num_outputs_per_prompt: int | None = None
    guidance_scale: float | None = None
    true_cfg_scale: float | None = None
    num_frames: int | None = None
    fps: int | None = None
    rollout: bool = True
    rollout_sde_type: str = "sde"
    rollout_noise_level: float = 0.7
    rollout_log_prob_no_const: bool = False
    rollout_debug_mode: bool = True
    rollout_return_denoising_env: bool = False
    rollout_return_dit_trajectory: bool = False
    rollout_sde_step_indices: list[int] | None = None
    rollout_return_step_indices: list[int] | None = None
    image_path: list[str] | None = None
    suppress_logs: bool = False
    extra_sampling_params: dict[str, Any] | None = None


class NativeRequest(RolloutRequest):
    """POST /v1/diffusion/generate of an older fork; without `rollout` or `get_log_probs` the steps are Euler's."""

    rollout: bool = False
    rollout_debug_mode: bool = False
    get_latents: bool = False
    get_log_probs: bool = False
