"""What was made: rollouts, native generations, images, and where each comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sglang_diffusion_routing.client.exchange import Answer
from sglang_diffusion_routing.client.tensors import Tensor


@dataclass(frozen=True, slots=True)
class Origin:
    """Where and on what a reply was made, as the router says; empty when it does not say.

    worker: URL. weight_version: of the weights; `unknown` when they changed in between. queue_s: wait in the router.
    headers: all fields of the reply, their names in lower case.
    """

    worker: str
    weight_version: str
    queue_s: float
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, answer: Answer) -> Origin:
        head = answer.headers
        try:
            queue_s = float(head.get("x-sglang-router-queue-ms", 0.0)) / 1000
        except ValueError:
            queue_s = 0.0
        return cls(
            head.get("x-sglang-router-worker", ""),
            # Versions may be UTF-8, which HTTP libraries read as Latin-1.
            _utf8(head.get("x-sglang-router-weight-version", "")),
            queue_s,
            head,
        )


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The denoising path of one sample; None for what was not asked for.

    latents: [states, channels, (frames,) height, width]: the noise, then one after each step, or those of
        `rollout_return_step_indices`. The native route has a batch of 1 before them.
    timesteps: [states], descending. sigmas: [states], descending. log_probs: [steps]; only of the native route, which
        has a batch of 1 before them.
    """

    latents: Tensor | None = None
    timesteps: Tensor | tuple[Tensor, ...] | None = None
    sigmas: Tensor | None = None
    log_probs: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a rollout.

    output: the image, [3, height, width], or the video, [3, frames, height, width], in 0..1.
    log_probs: [steps], of each step given the one before. denoising_env: what the model was conditioned on, its tensors
        decoded. debug: per step, [steps, ...]. inference_time_s: the worker's time for all samples of the reply.
    more: members that this version does not know.
    """

    request_id: str
    prompt: str
    seed: int
    output: Tensor | None
    log_probs: Tensor | None
    trajectory: Trajectory | None
    denoising_env: Mapping[str, Any] | None
    debug: Mapping[str, Any] | None
    inference_time_s: float | None
    peak_memory_mb: float | None
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rollout:
    """The samples of one request, and where they come from."""

    samples: tuple[Sample, ...]
    origin: Origin


@dataclass(frozen=True, slots=True)
class Generation:
    """One sample of the native route. output: bytes of an image or video file in `output_format`."""

    id: str
    prompt: str
    seed: int | None
    output: bytes | None
    output_format: str
    trajectory: Trajectory | None
    inference_time_s: float | None
    peak_memory_mb: float | None
    origin: Origin
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Image:
    """One image. data: bytes of its file, None when only `url` was asked for."""

    data: bytes | None
    url: str | None
    revised_prompt: str | None


@dataclass(frozen=True, slots=True)
class Images:
    """The images of one request; `id` names them in /v1/images/{id}/content."""

    id: str
    images: tuple[Image, ...]
    origin: Origin
    more: Mapping[str, Any] = field(default_factory=dict)


def _utf8(text: str) -> str:
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text
