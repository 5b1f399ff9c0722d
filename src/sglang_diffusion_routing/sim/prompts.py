"""From a prompt and the weights to what the model means by it.

A prompt's hash draws a few smooth fields, sums of cosine waves over the latent's frames, rows and columns: the means of
a Gaussian mixture. The transformer's weights scale the fields and add one of their own, so an image shows both its
prompt and the weights that made it.
"""

from dataclasses import dataclass

import numpy as np

from sglang_diffusion_routing.sim.flow import Mixture
from sglang_diffusion_routing.sim.tensors import Array
from sglang_diffusion_routing.sim.weights import CHANNELS, WAVES, Tensors, seed_of

COMPONENTS = 3
SCALE = 0.25  # of each component, against means of size about 1
TIME_WAVES = 3
STYLE_SIZE = 0.4  # of the weights' own field, against the prompt's
TOKENS = 333  # 77 of CLIP and 256 of T5, as SD3 joins them
EMBEDDING = 64
POOLED = 64


@dataclass(frozen=True, slots=True)
class LatentShape:
    """Shape of one latent: channels, frames (None for an image), height and width, eight pixels to a latent."""

    frames: int | None
    height: int
    width: int

    @property
    def dims(self) -> tuple[int, ...]:
        frames = () if self.frames is None else (self.frames,)
        return (CHANNELS, *frames, self.height, self.width)


def mixture_of(prompt: str, transformer: Tensors, shape: LatentShape) -> Mixture:
    """Give the distribution of latents that the transformer makes for a prompt."""
    rng = np.random.default_rng(seed_of("prompt", prompt))
    fading = 1.0 / (1.0 + np.add.outer(np.arange(WAVES), np.arange(WAVES)))
    waves = rng.standard_normal((COMPONENTS, CHANNELS, TIME_WAVES, WAVES, WAVES)) * fading
    waves[:, :, 1:] *= 0.5  # what moves is weaker than what stays
    gain = 1.0 + 0.2 * transformer["style.gain"]
    waves *= gain[None, :, None, None, None]
    waves[:, :, 0] += STYLE_SIZE * transformer["style.weight"] * fading
    fields = np.einsum(
        "kctij,tf,iy,jx->kcfyx",
        waves,
        _cosines(TIME_WAVES, shape.frames or 1),
        _cosines(WAVES, shape.height),
        _cosines(WAVES, shape.width),
        optimize=True,
    )
    return Mixture(means=np.ascontiguousarray(fields.reshape(COMPONENTS, -1), dtype=np.float32), scale=SCALE)


def _cosines(waves: int, length: int) -> Array:
    """Give the first cosine waves along one side: [waves, length]."""
    return np.asarray(np.cos(np.pi * np.outer(np.arange(waves), (np.arange(length) + 0.5) / length)))


def embeddings_of(prompt: str) -> dict[str, Array]:
    """Give stand-ins for the text encoders' outputs, decided by the prompt, in the shapes and types of a small SD3."""
    rng = np.random.default_rng(seed_of("embedding", prompt))
    return {
        "pooled_projections": rng.standard_normal((1, POOLED)).astype(np.float16),
        "encoder_hidden_states": rng.standard_normal((1, TOKENS, EMBEDDING), dtype=np.float32),
    }
