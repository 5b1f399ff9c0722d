"""One rollout: every prompt sent to the router at once, every sample with where it ran and on which weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sglang_diffusion_routing.cli.demo.trainer import Floats, warmth
from sglang_diffusion_routing.client import AsyncClient, Done, Rollout
from sglang_diffusion_routing.client import Sample as Made

SIDE_PX = 256
STEPS = 8
THUMBNAIL_PX = 64

Pixels = NDArray[np.uint8]


class RolloutFailed(RuntimeError):
    """A prompt got no samples."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a prompt.

    worker: URL that the router names. version: weights as the router names them. weights: checksum of the transformer
    that the worker says it ran on. queue_ms: wait in the router. seconds: the worker's time for all samples of the
    prompt. log_probs: [steps]. latent: the final one. thumbnail: uint8, [64, 64, 3].
    """

    prompt: int
    number: int
    seed: int
    text: str
    worker: str
    version: str
    weights: str
    queue_ms: float
    seconds: float
    reward: float
    log_probs: Floats
    latent: Floats
    thumbnail: Pixels


def request(samples: int) -> dict[str, Any]:
    """Give the fields of a rollout request that returns log-probabilities and the final latent."""
    return {
        "num_outputs_per_prompt": samples,
        "width": SIDE_PX,
        "height": SIDE_PX,
        "num_inference_steps": STEPS,
        "rollout_debug_mode": False,
        "rollout_return_dit_trajectory": True,
        "rollout_return_step_indices": [STEPS],
    }


async def rollout(
    router: AsyncClient,
    prompts: Sequence[str],
    samples: int,
    seed: int,
    on_prompt: Callable[[], None],
) -> list[list[Sample]]:
    """Send every prompt at once and give its samples, in the order of the prompts.

    Args:
        on_prompt: called after each reply.

    Raises:
        RolloutFailed: a prompt has got no samples, or not those that were asked for.
    """

    def ended(done: Done) -> None:
        if done.error is not None:
            raise RolloutFailed(f"prompt {done.index + 1}: {done.error}") from done.error
        on_prompt()

    try:
        batch = await router.rollout_many(
            prompts, seed=seed, concurrency=len(prompts), on_done=ended, **request(samples)
        )
    except* RolloutFailed as failures:
        # The first has ended the others.
        raise failures.exceptions[0] from None
    first_seeds = range(seed, seed + len(prompts) * samples, samples)
    made = zip(batch.complete(), first_seeds, strict=True)
    return [_samples(reply, index, first_seed) for index, (reply, first_seed) in enumerate(made)]


def _samples(reply: Rollout, prompt: int, first_seed: int) -> list[Sample]:
    """Read the samples of one reply and where they come from."""
    try:
        return [_sample(reply, made, prompt, number, first_seed) for number, made in enumerate(reply.samples)]
    except KeyError as error:
        raise RolloutFailed(f"prompt {prompt + 1} lacks what was asked for: {error}") from error


def _sample(reply: Rollout, made: Made, prompt: int, number: int, first_seed: int) -> Sample:
    origin, log_probs, trajectory = reply.origin, made.log_probs, made.trajectory
    if made.output is None or log_probs is None or trajectory is None or trajectory.latents is None:
        raise RolloutFailed(f"prompt {prompt + 1} lacks its image, its log-probabilities or its latent")
    colours = made.output.numpy()
    return Sample(
        prompt=prompt,
        number=number,
        seed=first_seed + number,
        text=made.prompt,
        worker=origin.worker,
        version=origin.weight_version,
        weights=origin.headers["x-sim-weights"],
        queue_ms=1000 * origin.queue_s,
        seconds=made.inference_time_s or 0.0,
        reward=warmth(colours),
        log_probs=log_probs.numpy(),
        latent=trajectory.latents.numpy()[-1],
        thumbnail=thumbnail(colours),
    )


def thumbnail(colours: Floats) -> Pixels:
    """Shrink colours, [3, height, width] in 0..1, by the mean of each block: uint8, [64, 64, 3]."""
    channels, height, width = colours.shape
    blocks = colours.reshape(channels, THUMBNAIL_PX, height // THUMBNAIL_PX, THUMBNAIL_PX, width // THUMBNAIL_PX).mean(
        axis=(2, 4)
    )
    return np.asarray(np.rint(blocks * 255), dtype=np.uint8).transpose(1, 2, 0)
