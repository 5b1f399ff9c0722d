"""One rollout: every prompt sent to the router at once, every sample with where it ran and on which weights."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx2
import numpy as np
from numpy.typing import NDArray

from sglang_diffusion_routing.cli.demo import replies
from sglang_diffusion_routing.cli.demo.replies import Floats
from sglang_diffusion_routing.cli.demo.trainer import warmth
from sglang_diffusion_routing.tasks import Tasks

SIDE_PX = 256
STEPS = 8
THUMBNAIL_PX = 64

NO_DEADLINE = httpx2.Timeout(None, connect=10.0)
"""A request may wait in the router for as long as those before it take."""

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


def request(prompt: str, samples: int, seed: int) -> dict[str, object]:
    """Give the body of a rollout request that returns log-probabilities and the final latent."""
    return {
        "prompt": prompt,
        "seed": seed,
        "num_outputs_per_prompt": samples,
        "width": SIDE_PX,
        "height": SIDE_PX,
        "num_inference_steps": STEPS,
        "rollout_debug_mode": False,
        "rollout_return_dit_trajectory": True,
        "rollout_return_step_indices": [STEPS],
    }


async def rollout(
    client: httpx2.AsyncClient,
    prompts: Sequence[str],
    samples: int,
    seed: int,
    on_prompt: Callable[[], None],
) -> list[list[Sample]]:
    """Send every prompt and give its samples, in the order of the prompts.

    Args:
        on_prompt: called after each reply.

    Raises:
        RolloutFailed: a reply was not 200 or not what was asked for.
    """

    async def one(index: int, prompt: str) -> list[Sample]:
        first_seed = seed + index * samples
        body = request(prompt, samples, first_seed)
        try:
            reply = await client.post("/rollout/generate", json=body, timeout=NO_DEADLINE)
        except httpx2.TransportError as error:
            raise RolloutFailed(f"prompt {index + 1}: {error!r}") from error
        if reply.status_code != 200:
            raise RolloutFailed(f"prompt {index + 1} got {reply.status_code}: {reply.text[:300]}")
        made = _samples(reply, index, first_seed)
        on_prompt()
        return made

    async with Tasks() as group:
        jobs = [
            group.spawn(one(index, prompt), name=f"rollout-{index}", on_error=_seen_by_gather)
            for index, prompt in enumerate(prompts)
        ]
        return list(await asyncio.gather(*jobs))


def _seen_by_gather(_error: BaseException) -> None:
    """Leave the error to whoever awaits the rollout."""


def _samples(reply: httpx2.Response, prompt: int, first_seed: int) -> list[Sample]:
    """Read the samples of one reply and where they come from."""
    head = reply.headers
    try:
        outputs = replies.decode(reply.content)
        return [
            Sample(
                prompt=prompt,
                number=number,
                seed=first_seed + number,
                text=output.prompt,
                worker=head["x-sglang-router-worker"],
                version=head["x-sglang-router-weight-version"],
                weights=head["x-sim-weights"],
                queue_ms=float(head["x-sglang-router-queue-ms"]),
                seconds=output.seconds,
                reward=warmth(output.colours),
                log_probs=output.log_probs,
                latent=output.latent,
                thumbnail=thumbnail(output.colours),
            )
            for number, output in enumerate(outputs)
        ]
    except (replies.BadReply, KeyError, ValueError) as error:
        raise RolloutFailed(f"prompt {prompt + 1}: {error!r}") from error


def thumbnail(colours: Floats) -> Pixels:
    """Shrink colours, [3, height, width] in 0..1, by the mean of each block: uint8, [64, 64, 3]."""
    channels, height, width = colours.shape
    blocks = colours.reshape(channels, THUMBNAIL_PX, height // THUMBNAIL_PX, THUMBNAIL_PX, width // THUMBNAIL_PX).mean(
        axis=(2, 4)
    )
    return np.asarray(np.rint(blocks * 255), dtype=np.uint8).transpose(1, 2, 0)
